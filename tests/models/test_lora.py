"""LoRA: which layers are adapted, how adapters train, and how they are merged or kept for a shared base."""

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
from tkd_hf.data.tokenization import tokenize
from tkd_hf.models.arguments import LoraArguments
from tkd_hf.models.lora import add_adapters, finish_adapters, linear_modules, merge_adapter
from tkd_hf.models.quantized import head_modules
from tkd_hf.models.signals import Recorder
from tkd_hf.teachers.teacher import LiveTeacher

from ..factories import TEXTS, WORDS, arguments, build_teacher, logits_of_texts, losses, student_of, weights


SMALL = {"vocab_size": len(WORDS), "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ADAPTERS = {"learning_rate": 0.01, "train_sampling_strategy": "group_by_length"}
BLOCK = "attention.output.dense attention.self.key attention.self.query attention.self.value intermediate.dense"


@pytest.fixture
def student(teacher):
    return student_of(teacher)


@pytest.fixture
def build(tmp_path, teacher, student, examples, tokenizer):
    """Return a function that builds a trainer for adapters on a copy of the student."""

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
def test_adapted_layers_and_head_modules_of_every_architecture(model, linear, attention, head):
    assert linear_modules(model, "linear") == linear.split()
    assert linear_modules(model, "attention") == attention.split()
    assert head_modules(model) == head.split()


@pytest.mark.parametrize(("targets", "adapted"), [("linear", 6), ("attention", 3)])
def test_only_adapters_and_head_are_trained(student, targets, adapted):
    model = add_adapters(student, LoraArguments(rank=4, targets=targets))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len([name for name in trained if ".lora_" in name]) == 2 * adapted * 2  # A and B, in two layers
    heads = {name.removeprefix("base_model.model.").split(".")[0] for name in trained if ".lora_" not in name}
    assert heads == {"dense", "classifier"}


def test_new_adapters_change_no_logits(student, tokenizer):
    before = logits_of_texts(student, tokenizer)
    torch.testing.assert_close(
        logits_of_texts(add_adapters(student, LoraArguments()), tokenizer), before, atol=0, rtol=0
    )


def test_adding_adapters_causes_no_warnings(student):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_adapters(student, LoraArguments())


def test_base_stays_frozen_and_merging_keeps_the_logits(build, student, tokenizer, tmp_path):
    trainer = build()
    start = weights(trainer)
    step_losses = losses(trainer)
    assert step_losses[-1] < step_losses[0]
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
    assert not (tmp_path / "run" / "adapter").exists()  # it could not be loaded, as its base was never saved


def test_gradient_accumulation_matches_a_larger_batch(build):
    plain = build(per_device_train_batch_size=8, optim="sgd", num_train_epochs=3, learning_rate=0.1)
    accumulated = build(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        optim="sgd",
        num_train_epochs=3,
        learning_rate=0.1,
    )
    np.testing.assert_allclose(losses(plain), losses(accumulated), atol=1e-4)
    torch.testing.assert_close(weights(plain), weights(accumulated), atol=1e-6, rtol=1e-5)


def test_gradient_checkpointing_gives_the_same_training(build):
    newest = hasattr(DistillationTrainingArguments, "activation_checkpointing")
    field = "activation_checkpointing" if newest else "gradient_checkpointing"
    plain, checkpointed = build(optim="sgd"), build(optim="sgd", **{field: True})
    np.testing.assert_allclose(losses(plain), losses(checkpointed), atol=1e-5)
    torch.testing.assert_close(weights(plain), weights(checkpointed), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("load_in_8bit", [False, True])
def test_resumed_training_matches_uninterrupted_training(build, tmp_path, load_in_8bit):
    """This includes dropout and learned projections, which this student needs as it is narrower than its teacher."""
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
    uninterrupted, resumed = build(**fields), build(**fields)
    assert config.hidden_dropout_prob > 0
    uninterrupted.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed.state.global_step == uninterrupted.state.global_step == 6
    torch.testing.assert_close(weights(uninterrupted), weights(resumed), atol=0, rtol=0)
    projections = [list(trainer.objective.modules.parameters()) for trainer in (uninterrupted, resumed)]
    assert projections[0]
    torch.testing.assert_close(*projections, atol=0, rtol=0)


def test_trainer_accepts_a_model_from_get_peft_model_and_saves_its_adapter(
    tmp_path, teacher, student, examples, tokenizer
):
    model = get_peft_model(student, LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"]))
    trainer = DistillationTrainer(
        model=model,
        args=arguments(tmp_path, **ADAPTERS),
        teacher_model=teacher,
        train_dataset=tokenize(examples, tokenizer),
        processing_class=tokenizer,
    )
    assert len(losses(trainer)) == 4
    trainer.save_model()
    base = student_from_teacher(teacher, num_hidden_layers=2)
    loaded = PeftModel.from_pretrained(base, tmp_path / "run")
    torch.testing.assert_close(logits_of_texts(loaded, tokenizer), logits_of_texts(model, tokenizer), atol=1e-6, rtol=0)


OBJECTIVES = {"relations": 1.0, "hidden": 0.5, "attention": 0.5, "logits": 0.5}


BASES = [{}, {"load_in_8bit": True}, {"load_in_4bit": True}]


@pytest.mark.parametrize("base", BASES[:2])
def test_objectives_include_the_adapters_before_and_after_merging(build, student, base):
    lora = LoraArguments(rank=4, **base)
    trainer = build(lora, objectives=OBJECTIVES, num_train_epochs=5)
    step_losses = losses(trainer)
    assert step_losses[-1] < step_losses[0]
    before = trainer.evaluate()
    finish_adapters(trainer, student, lora)
    after = trainer.evaluate()
    for name in ("eval_loss", *(f"eval_loss_{name}" for name in OBJECTIVES)):
        assert after[name] == pytest.approx(before[name], rel=0.1 if base else 1e-4), name


@pytest.mark.parametrize("base", BASES)
def test_recorded_queries_include_the_adapter(student, tokenizer, base):
    model = add_adapters(student, LoraArguments(rank=4, **base)).eval()
    query = model.get_submodule("base_model.model.tkd.layers.0.attention.query")
    torch.nn.init.normal_(query.lora_B["default"].weight)
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with torch.no_grad():
        signals, _ = Recorder(model, ["queries", "hidden_states"])(model, batch)
        embeddings = signals.hidden_states[0]
        torch.testing.assert_close(signals.queries[0], query(embeddings))
        assert not torch.allclose(signals.queries[0], query.base_layer(embeddings), atol=1e-2)


def wide_student():
    """Build a student with a realistic width and scale of weights, so that 8 bits are a close approximation."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(WORDS),
        max_position_embeddings=32, id2label={0: "negative", 1: "positive"}, initializer_range=0.05,
    )  # fmt: skip
    return student_from_teacher(BertForSequenceClassification(config))


@pytest.mark.parametrize(("bits", "layer_class"), [("load_in_8bit", "Linear8bitLt"), ("load_in_4bit", "Linear4bit")])
def test_quantized_base_keeps_its_head_in_floats(student, bits, layer_class):
    model = add_adapters(student, LoraArguments(**{bits: True})).get_base_model()
    classes = {name: type(module).__name__ for name, module in model.named_modules()}
    assert classes["tkd.layers.0.attention.query.base_layer"] == layer_class
    assert classes["tkd.layers.1.feed_forward.output.base_layer"] == layer_class
    assert classes["dense.original_module"] == classes["classifier.original_module"] == "Linear"
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}  # quantization works on a copy


@pytest.mark.parametrize(("bits", "tolerance"), [("load_in_8bit", 0.05), ("load_in_4bit", 0.2)])
def test_adapters_trained_on_a_quantized_base_merge_into_float_weights(build, tokenizer, caplog, bits, tolerance):
    base, lora = wide_student(), LoraArguments(rank=4, **{bits: True})
    trainer = build(lora, base, num_train_epochs=10, learning_rate=2e-3)
    step_losses = losses(trainer)
    assert step_losses[-1] < 0.5 * step_losses[0]
    quantized = logits_of_texts(trainer.model, tokenizer)
    with caplog.at_level(logging.INFO, "tkd_hf"):
        finish_adapters(trainer, base, lora)
    assert "merging into the float weights" in caplog.text
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    merged = logits_of_texts(trainer.model, tokenizer)
    assert (merged - quantized).abs().max() < tolerance * quantized.abs().max()
    assert "eval_loss" in trainer.evaluate()


@pytest.mark.parametrize("base", BASES[1:])
def test_adapters_on_a_quantized_base_learn_to_classify_unseen_sentences(base, tmp_path, tokenizer):
    """The label of a sentence says whether it has more positive than negative words."""
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
        compute_metrics=lambda result: {"accuracy": (result.predictions.argmax(-1) == result.label_ids).mean()},
    )
    untrained_accuracy = trainer.evaluate()["eval_accuracy"]
    trainer.train()
    assert untrained_accuracy < 0.7
    assert trainer.evaluate()["eval_accuracy"] > 0.9


def test_adapter_trained_on_8_bits_merges_with_its_moved_base(build, student, tokenizer, tmp_path):
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
    unmerged = PeftModel.from_pretrained(copy.deepcopy(student), tmp_path / "run")
    torch.testing.assert_close(
        logits_of_texts(merged, tokenizer), logits_of_texts(unmerged, tokenizer), atol=1e-5, rtol=0
    )


def test_teacher_with_adapters_receives_all_model_inputs(teacher, tokenizer):
    """The signature of PEFT's `forward` lacks token types and, without a task type, all inputs."""
    batch = dict(tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt"))
    with torch.no_grad():
        expected = teacher(**batch).logits
    for task_type in (None, "SEQ_CLS"):
        wrapped = get_peft_model(copy.deepcopy(teacher), LoraConfig(task_type=task_type, target_modules=["query"]))
        torch.testing.assert_close(LiveTeacher(wrapped)(batch).logits, expected, atol=1e-6, rtol=0)


def test_model_without_linear_layers_is_refused_with_a_hint():
    config = SqueezeBertConfig(hidden_size=16, embedding_size=16, **SMALL)
    model = SqueezeBertForSequenceClassification(config)
    with pytest.raises(InputError, match=r"no linear layers in a model of type 'squeezebert'.*without LoRA"):
        add_adapters(model, LoraArguments())
