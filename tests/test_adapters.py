"""LoRA: what is trained, what is merged, and adapters that share a base."""

import copy
import logging
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
)

from tkd_hf import (
    DistillationTrainer,
    DistillationTrainingArguments,
    InputError,
    TKDConfig,
    TKDForSequenceClassification,
    student_from_teacher,
)
from tkd_hf.adapters import LoraArguments, add_adapters, finish_adapters, head_modules, linear_modules, merge_adapter
from tkd_hf.data.features import tokenize
from tkd_hf.signals import Recorder
from tkd_hf.teacher import LiveTeacher

from .conftest import TEXTS, WORDS, build_teacher
from .training import arguments, logits_of_texts, losses, student_of, weights


SMALL = {"vocab_size": len(WORDS), "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ADAPTERS = {"learning_rate": 0.01, "train_sampling_strategy": "group_by_length"}
BLOCK = "attention.output.dense attention.self.key attention.self.query attention.self.value intermediate.dense"


@pytest.fixture
def student(teacher):
    return student_of(teacher)


@pytest.fixture
def build(tmp_path, teacher, student, examples, tokenizer):
    """Builds a trainer of adapters on a copy of the student."""

    def make(lora=LoraArguments(rank=4), base=student, **fields):
        torch.manual_seed(3)
        rows = tokenize(examples, tokenizer)
        return DistillationTrainer(
            model=add_adapters(copy.deepcopy(base), lora),
            args=arguments(tmp_path, **ADAPTERS | fields),
            teacher_model=teacher,
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tokenizer,
        )

    return make


@pytest.mark.parametrize(
    ("model", "linear", "attention", "head"),
    [
        (
            BertForSequenceClassification(BertConfig(hidden_size=16, **SMALL)),
            f"{BLOCK} output.dense",
            "attention.self.key attention.self.query attention.self.value",
            "bert.pooler classifier",
        ),
        (
            RobertaForSequenceClassification(RobertaConfig(hidden_size=16, **SMALL)),
            f"{BLOCK} output.dense",
            "attention.self.key attention.self.query attention.self.value",
            "classifier",
        ),
        (
            ElectraForSequenceClassification(ElectraConfig(embedding_size=8, hidden_size=16, **SMALL)),
            f"{BLOCK} output.dense",
            "attention.self.key attention.self.query attention.self.value",
            "classifier",
        ),
        (
            DistilBertForSequenceClassification(
                DistilBertConfig(vocab_size=len(WORDS), dim=16, hidden_dim=32, n_layers=1, n_heads=2)
            ),
            "attention.k_lin attention.out_lin attention.q_lin attention.v_lin ffn.lin1 ffn.lin2",
            "attention.k_lin attention.q_lin attention.v_lin",
            "pre_classifier classifier",
        ),
        (
            student_from_teacher(build_teacher()),
            "attention.key attention.output attention.query attention.value feed_forward.intermediate "
            "feed_forward.output",
            "attention.key attention.query attention.value",
            "dense classifier",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_adapted_and_what_is_the_head(model, linear, attention, head):
    assert linear_modules(model, "linear") == linear.split()
    assert linear_modules(model, "attention") == attention.split()
    assert head_modules(model) == head.split()


@pytest.mark.parametrize(("targets", "adapted"), [("linear", 6), ("attention", 3)])
def test_trained_are_the_adapters_and_the_head(student, targets, adapted):
    model = add_adapters(student, LoraArguments(rank=4, targets=targets))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len([name for name in trained if ".lora_" in name]) == 2 * adapted * 2  # A and B, in two layers
    others = {name.removeprefix("base_model.model.").split(".")[0] for name in trained if ".lora_" not in name}
    assert others == {"dense", "classifier"}


def test_adapters_start_at_nothing(student, tokenizer):
    before = logits_of_texts(student, tokenizer)
    torch.testing.assert_close(
        logits_of_texts(add_adapters(student, LoraArguments()), tokenizer), before, atol=0, rtol=0
    )


def test_nothing_is_warned_about(student):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_adapters(student, LoraArguments())


def test_the_base_is_frozen_and_the_merged_model_answers_as_the_unmerged(build, student, tokenizer, tmp_path):
    trainer = build()
    start = weights(trainer)
    found = losses(trainer)
    assert found[-1] < found[0]
    assert not torch.equal(start, weights(trainer))
    heads = ("dense.", "classifier.")
    frozen = {name: weight for name, weight in student.state_dict().items() if not name.startswith(heads)}
    after = {
        name.removeprefix("base_model.model.").replace("base_layer.", ""): weight
        for name, weight in trainer.model.state_dict().items()
    }
    for name, weight in frozen.items():
        torch.testing.assert_close(after[name], weight, atol=0, rtol=0)

    unmerged = logits_of_texts(trainer.model, tokenizer)
    finish_adapters(trainer, student, LoraArguments(rank=4))
    trainer.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert type(loaded) is type(student)
    torch.testing.assert_close(logits_of_texts(loaded, tokenizer), unmerged, atol=1e-5, rtol=0)
    assert set(loaded.state_dict()) == set(student.state_dict())
    assert not (tmp_path / "run" / "adapter").exists()  # its base has no name by which it could be loaded


def test_accumulation_changes_nothing(build):
    whole = build(per_device_train_batch_size=8, optim="sgd", num_train_epochs=3, learning_rate=0.1)
    parts = build(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        optim="sgd",
        num_train_epochs=3,
        learning_rate=0.1,
    )
    np.testing.assert_allclose(losses(whole), losses(parts), atol=1e-4)
    torch.testing.assert_close(weights(whole), weights(parts), atol=1e-6, rtol=1e-5)


def test_gradient_checkpointing_changes_nothing(build):
    newest = hasattr(DistillationTrainingArguments, "activation_checkpointing")
    field = "activation_checkpointing" if newest else "gradient_checkpointing"
    plain, checkpointed = build(optim="sgd"), build(optim="sgd", **{field: True})
    np.testing.assert_allclose(losses(plain), losses(checkpointed), atol=1e-5)
    torch.testing.assert_close(weights(plain), weights(checkpointed), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("load_in_8bit", [False, True])
def test_resumed_is_uninterrupted(build, tmp_path, load_in_8bit):
    """Dropout and learned projections included: this student is narrower than its teacher."""
    torch.manual_seed(0)
    config = TKDConfig(vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_labels=2)
    config.id2label = {0: "negative", 1: "positive"}
    fields = {
        "lora": LoraArguments(rank=4, load_in_8bit=load_in_8bit),
        "base": TKDForSequenceClassification(config),
        "objectives": {"logits": 1.0, "hidden": 1.0},
        "save_strategy": "steps",
        "save_steps": 3,
        "num_train_epochs": 3,
    }
    whole, again = build(**fields), build(**fields)
    assert config.hidden_dropout_prob > 0
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert again.state.global_step == whole.state.global_step == 6
    torch.testing.assert_close(weights(whole), weights(again), atol=0, rtol=0)
    projections = [list(trainer.objective.modules.parameters()) for trainer in (whole, again)]
    assert projections[0]
    torch.testing.assert_close(*projections, atol=0, rtol=0)


def test_a_peft_student_of_ones_own(tmp_path, teacher, student, examples, tokenizer):
    """As a Trainer user knows it: `get_peft_model`, then the trainer; what it saves is the adapter."""
    model = get_peft_model(student, LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"]))
    trainer = DistillationTrainer(
        model=model,
        args=arguments(tmp_path, **ADAPTERS),
        teacher_model=teacher,
        train_dataset=tokenize(examples, tokenizer),
        processing_class=tokenizer,
    )
    found = losses(trainer)
    assert len(found) == 4
    trainer.save_model()
    fresh = student_from_teacher(teacher, num_hidden_layers=2)
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "run")
    torch.testing.assert_close(logits_of_texts(loaded, tokenizer), logits_of_texts(model, tokenizer), atol=1e-6, rtol=0)


FEATURES = {"relations": 1.0, "hidden": 0.5, "attention": 0.5, "logits": 0.5}


BASES = [{}, {"load_in_8bit": True}, {"load_in_4bit": True}]


@pytest.mark.parametrize("base", BASES[:2])
def test_objectives_read_the_student_with_its_adapters(build, student, base):
    """Both while it trains, and after merging; what is read of a layer includes its adapter."""
    lora = LoraArguments(rank=4, **base)
    trainer = build(lora, objectives=FEATURES, num_train_epochs=5)
    found = losses(trainer)
    assert found[-1] < found[0]
    before = trainer.evaluate()
    finish_adapters(trainer, student, lora)
    after = trainer.evaluate()
    for name in ("eval_loss", *(f"eval_loss_{name}" for name in FEATURES)):
        assert after[name] == pytest.approx(before[name], rel=0.1 if base else 1e-4), name


@pytest.mark.parametrize("base", BASES)
def test_what_is_recorded_of_a_layer_includes_its_adapter(student, tokenizer, base):
    model = add_adapters(student, LoraArguments(rank=4, **base)).eval()
    query = model.get_submodule("base_model.model.tkd.layers.0.attention.query")
    torch.nn.init.normal_(query.lora_B["default"].weight)
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with torch.no_grad():
        signals, _ = Recorder(model, ["queries", "hidden_states"])(model, batch)
        embedded = signals.hidden_states[0]
        torch.testing.assert_close(signals.queries[0], query(embedded))
        assert not torch.allclose(signals.queries[0], query.base_layer(embedded), atol=1e-2)


def wide_student():
    """Wide enough, and with weights of a usual size, for 8 bits to be close."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(WORDS),
        max_position_embeddings=32, id2label={0: "negative", 1: "positive"}, initializer_range=0.05,
    )  # fmt: skip
    return student_from_teacher(BertForSequenceClassification(config))


@pytest.mark.parametrize(("bits", "kind"), [("load_in_8bit", "Linear8bitLt"), ("load_in_4bit", "Linear4bit")])
def test_of_a_quantized_base_the_encoder_is_small_and_the_head_is_not(student, bits, kind):
    model = add_adapters(student, LoraArguments(**{bits: True})).get_base_model()
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["tkd.layers.0.attention.query.base_layer"] == kind
    assert kinds["tkd.layers.1.feed_forward.output.base_layer"] == kind
    assert kinds["dense.original_module"] == kinds["classifier.original_module"] == "Linear"
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}  # the base itself is left alone


@pytest.mark.parametrize(("bits", "close"), [("load_in_8bit", 0.05), ("load_in_4bit", 0.2)])
def test_trained_on_a_quantized_base_and_merged_into_floats(build, tokenizer, caplog, bits, close):
    base, lora = wide_student(), LoraArguments(rank=4, **{bits: True})
    trainer = build(lora, base, num_train_epochs=10, learning_rate=2e-3)
    found = losses(trainer)
    assert found[-1] < 0.5 * found[0]
    quantized = logits_of_texts(trainer.model, tokenizer)
    with caplog.at_level(logging.INFO, "tkd_hf"):
        finish_adapters(trainer, base, lora)
    assert "merging into the float weights" in caplog.text
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    merged = logits_of_texts(trainer.model, tokenizer)
    assert (merged - quantized).abs().max() < close * quantized.abs().max()
    assert "eval_loss" in trainer.evaluate()


@pytest.mark.parametrize("base", BASES[1:])
def test_on_a_quantized_base_adapters_learn_a_task(base, tmp_path, tokenizer):
    """Which side has more words decides; none of the sentences asked about was seen."""
    rng = np.random.default_rng(0)
    words = rng.choice(["good", "fine", "bad", "dull", "a", "film", "story"], (384, 5))
    sums = np.isin(words, ["good", "fine"]).sum(1) - np.isin(words, ["bad", "dull"]).sum(1)
    texts = [" ".join(row) for row, total in zip(words, sums, strict=True) if total]
    rows = tokenize(Dataset.from_dict({"text": texts, "label": (sums[sums != 0] > 0).astype(int)}), tokenizer)
    rows, unseen = rows.select(range(200)), rows.select(range(200, len(rows)))
    trainer = DistillationTrainer(
        model=add_adapters(wide_student(), LoraArguments(rank=4, **base)),
        args=arguments(tmp_path, learning_rate=5e-3, objectives={"hard": 1.0}, per_device_train_batch_size=16),
        train_dataset=rows,
        eval_dataset=unseen,
        processing_class=tokenizer,
        compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()},
    )
    before = trainer.evaluate()["eval_accuracy"]
    trainer.train()
    assert before < 0.7
    assert trainer.evaluate()["eval_accuracy"] > 0.9


def test_an_adapter_made_on_8_bits_finds_its_moved_base(build, student, tokenizer, tmp_path):
    student.save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    lora = LoraArguments(rank=4, load_in_8bit=True, adapter_only=True)
    trainer = build(lora, base)
    trainer.train()
    finish_adapters(trainer, base, lora)
    trainer.save_model()
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"{tmp_path / 'base'}', the base of {tmp_path / 'run'}, cannot be loaded"):
        merge_adapter(tmp_path / "run", tmp_path / "merged")
    merged = merge_adapter(tmp_path / "run", tmp_path / "merged", base=str(tmp_path / "moved"))
    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}
    on_floats = PeftModel.from_pretrained(copy.deepcopy(student), tmp_path / "run")
    torch.testing.assert_close(
        logits_of_texts(merged, tokenizer), logits_of_texts(on_floats, tokenizer), atol=1e-5, rtol=0
    )


def test_a_teacher_with_adapters_reads_the_whole_batch(teacher, tokenizer):
    """PEFT's own signature names neither token types nor, without a task, anything."""
    batch = dict(tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt"))
    with torch.no_grad():
        expected = teacher(**batch).logits
    for task in (None, "SEQ_CLS"):
        wrapped = get_peft_model(copy.deepcopy(teacher), LoraConfig(task_type=task, target_modules=["query"]))
        torch.testing.assert_close(LiveTeacher(wrapped)(batch).logits, expected, atol=1e-6, rtol=0)


def test_a_model_without_linear_layers_is_refused():
    config = SqueezeBertConfig(hidden_size=16, embedding_size=16, **SMALL)
    model = SqueezeBertForSequenceClassification(config)
    with pytest.raises(InputError, match=r"no linear layers in a model of type 'squeezebert'.*without LoRA"):
        add_adapters(model, LoraArguments())
