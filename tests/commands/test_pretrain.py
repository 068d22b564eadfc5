"""Pre-training on a tiny corpus, and fine-tuning and distilling the encoder afterwards."""

import math

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    EvalPrediction,
)

from tkd_hf import DistillationTrainer, DistillationTrainingArguments, FineTuningArguments, TKDForMaskedLM, TKDModel
from tkd_hf.commands.distill import distill
from tkd_hf.commands.finetune import finetune
from tkd_hf.commands.pretrain import masked_lm_metrics, pretrain, score_sequences
from tkd_hf.core.errors import InputError
from tkd_hf.data.arguments import CorpusArguments, DataArguments
from tkd_hf.models.arguments import EncoderArguments, StudentArguments
from tkd_hf.models.conversion import tkd_state_dict_from
from tkd_hf.objectives.arguments import PretrainingArguments

from ..factories import FAST, TEXTS, WORDS, build_teacher, build_tokenizer, read_json


TINY = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}
SHAPE = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "max_position_embeddings": 32}


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 10))
    return CorpusArguments(str(tmp_path / "text.txt"), max_length=12)


@pytest.fixture
def tokenizer_folder(tmp_path):
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def encoder_folder(tmp_path):
    """Return a folder with a teacher encoder without a masked-LM head, like MiniLM."""
    return save(BertModel(BertConfig(**SHAPE)), tmp_path / "encoder")


@pytest.fixture
def masked_lm_folder(tmp_path):
    return save(BertForMaskedLM(BertConfig(**SHAPE)), tmp_path / "masked_lm")


def save(model, folder):
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def arguments(folder, **fields):
    return PretrainingArguments(str(folder), **TINY | fields)


def test_an_encoder_without_a_teacher_learns_to_predict_tokens(tmp_path, corpus, tokenizer_folder):
    args = arguments(tmp_path / "base", learning_rate=5e-3, num_train_epochs=8)
    shape = EncoderArguments(layers=2, hidden_size=16, heads=2)
    record = pretrain(corpus, args, shape, tokenizer_folder)
    assert set(record.metrics) >= {"loss", "loss_hard", "masked_accuracy", "perplexity"}
    assert record.metrics["perplexity"] < len(WORDS) * 0.75  # guessing has the size of the vocabulary
    assert record.metrics["loss"] == pytest.approx(record.metrics["loss_hard"])
    model = TKDForMaskedLM.from_pretrained(tmp_path / "base")
    assert (model.config.hidden_size, model.config.intermediate_size) == (16, 64)
    assert (model.config.vocab_size, model.config.pad_token_id) == (len(WORDS), 0)
    assert read_json(tmp_path / "base" / "tkd_run.json")["arguments"]["mlm_probability"] == 0.15


def test_a_teacher_without_a_masked_lm_head_gives_relations_but_no_logits(tmp_path, corpus, encoder_folder):
    record = pretrain(corpus, arguments(tmp_path / "base", teacher=encoder_folder), EncoderArguments(layers=2))
    assert {"loss_hard", "loss_relations", "perplexity"} <= set(record.metrics)
    assert record.metrics["loss"] == pytest.approx(
        record.metrics["loss_hard"] + record.metrics["loss_relations"], rel=1e-4
    )
    assert TKDForMaskedLM.from_pretrained(tmp_path / "base").config.num_hidden_layers == 2
    with pytest.raises(InputError, match=r"'logits' needs a teacher that predicts tokens, .* has no masked-LM head"):
        pretrain(corpus, arguments(tmp_path / "x", teacher=encoder_folder, objectives={"logits": 1.0}))
    assert not (tmp_path / "x").exists()


def test_objectives_on_features_alone_mask_no_tokens_and_save_no_head(tmp_path, corpus, masked_lm_folder, monkeypatch):
    batches = []
    compute_loss = DistillationTrainer.compute_loss

    def spy(self, model, inputs, *args, **kwargs):
        batches.append(inputs)
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", spy)
    objectives = {"relations": 1.0, "hidden": 0.5}
    args = arguments(tmp_path / "base", teacher=masked_lm_folder, objectives=objectives)
    record = pretrain(corpus, args, EncoderArguments(layers=(1, 3)))
    assert {"loss", "loss_relations", "loss_hidden"} <= set(record.metrics)
    assert "perplexity" not in record.metrics
    assert not any("labels" in batch or (batch["input_ids"] == 4).any() for batch in batches)
    assert type(TKDModel.from_pretrained(tmp_path / "base")) is TKDModel
    assert read_json(tmp_path / "base" / "config.json")["architectures"] == ["TKDModel"]


def test_a_copy_of_a_masked_lm_teacher_has_no_loss_on_its_logits(tmp_path, corpus, masked_lm_folder):
    args = arguments(tmp_path / "base", teacher=masked_lm_folder, objectives={"logits": 1.0}, learning_rate=0.0)
    record = pretrain(corpus, args)
    assert record.metrics["loss_logits"] == pytest.approx(0, abs=1e-6)
    assert "perplexity" in record.metrics
    student, teacher = (
        TKDForMaskedLM.from_pretrained(tmp_path / "base"),
        BertForMaskedLM.from_pretrained(masked_lm_folder),
    )
    for name, weight in tkd_state_dict_from(teacher).items():
        assert torch.equal(student.state_dict()[name], weight)


def test_an_encoder_of_another_width_learns_the_relations_of_the_teacher(tmp_path, corpus, encoder_folder):
    shape = EncoderArguments(layers=2, hidden_size=8, heads=1)
    record = pretrain(corpus, arguments(tmp_path / "base", teacher=encoder_folder), shape)
    assert "loss_relations" in record.metrics
    assert TKDForMaskedLM.from_pretrained(tmp_path / "base").config.hidden_size == 8


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [{"hard": 1.0}, {"hard": 1.0, "relations": 1.0, "hidden": 1.0}])
def test_an_interrupted_run_resumes_to_the_same_encoder(tmp_path, corpus, encoder_folder, objectives, monkeypatch):
    """Bit for bit, whichever step it stopped at: order, masks and dropout are the same."""
    fields = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2, "gradient_accumulation_steps": 2}
    fields |= {"teacher": encoder_folder, "objectives": objectives}
    shape = EncoderArguments(layers=2)
    uninterrupted = pretrain(corpus, arguments(tmp_path / "uninterrupted", **fields), shape)

    class Crash(Exception):
        pass

    step = DistillationTrainer.training_step

    def crash_at(last):
        def crash(self, *args, **kwargs):
            if self.state.global_step == last:
                raise Crash
            return step(self, *args, **kwargs)

        return crash

    for last in (2, 3):
        with monkeypatch.context() as patch:
            patch.setattr(DistillationTrainer, "training_step", crash_at(last))
            with pytest.raises(Crash):
                pretrain(corpus, arguments(tmp_path / "resumed", **fields), shape, resume=last == 3)
    resumed = pretrain(corpus, arguments(tmp_path / "resumed", **fields), shape, resume=True)
    weights = [TKDForMaskedLM.from_pretrained(tmp_path / name).state_dict() for name in ("uninterrupted", "resumed")]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    assert {**uninterrupted.metrics, "seconds_per_epoch": 0} == {**resumed.metrics, "seconds_per_epoch": 0}
    assert pretrain(corpus, arguments(tmp_path / "resumed", **fields), shape, resume=True).finished == resumed.finished


def test_sequence_scores_and_metrics_match_a_calculation_by_hand():
    labels = torch.tensor([[-100, 1, -100], [-100, -100, -100], [0, -100, 1]])
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0], [1.0, 0.0]])
    scores = score_sequences(logits, labels)
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))]
    torch.testing.assert_close(scores, torch.tensor([[1, 1, losses[0]], [0, 0, 0], [2, 1, losses[1] + losses[2]]]))
    metrics = masked_lm_metrics(EvalPrediction(predictions=scores.numpy(), label_ids=None))
    assert metrics["masked_accuracy"] == pytest.approx(2 / 3)
    assert metrics["perplexity"] == pytest.approx(np.exp(sum(losses) / 3), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, teacher, tokenizer: ({}, {}, None), "an encoder without a teacher needs --tokenizer"),
        (
            lambda folder, teacher, tokenizer: ({}, {"layers": (0, 2)}, tokenizer),
            r"layers=\[0, 2\] select a teacher's layers",
        ),
        (lambda folder, teacher, tokenizer: ({"teacher": teacher}, {"layers": 9}, None), "num_hidden_layers=9"),
        (
            lambda folder, teacher, tokenizer: ({"teacher": teacher}, {}, save_tokenizer(folder)),
            "have different tokenizers",
        ),
        (
            lambda folder, teacher, tokenizer: ({"teacher": folder / "none"}, {}, None),
            "neither a folder with a loadable",
        ),
    ],
)
def test_models_and_shapes_that_do_not_fit_are_refused(
    tmp_path, corpus, encoder_folder, tokenizer_folder, make, message
):
    fields, shape, tokenizer = make(tmp_path, encoder_folder, tokenizer_folder)
    fields = {name: str(value) for name, value in fields.items()}
    with pytest.raises(InputError, match=message):
        pretrain(corpus, arguments(tmp_path / "base", **fields), EncoderArguments(**shape), tokenizer)
    assert not (tmp_path / "base").exists()


def save_tokenizer(folder):
    build_tokenizer([*WORDS, "more"]).save_pretrained(folder / "other")
    return str(folder / "other")


def test_a_teacher_too_small_for_its_tokenizer_or_the_text_is_refused(tmp_path, corpus, encoder_folder):
    build_tokenizer([*WORDS, "more"]).save_pretrained(encoder_folder)
    with pytest.raises(InputError, match=f"has a token with id {len(WORDS)}, but the model has only {len(WORDS)} word"):
        pretrain(corpus, arguments(tmp_path / "base", teacher=encoder_folder))
    build_tokenizer().save_pretrained(encoder_folder)
    long = CorpusArguments(corpus.dataset, max_length=33)
    with pytest.raises(InputError, match="max_length=33, but the teacher reads at most 32"):
        pretrain(long, arguments(tmp_path / "base", teacher=encoder_folder))


def test_bad_pretraining_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="objectives relations need a teacher"):
        arguments(tmp_path, objectives={"relations": 1.0, "hard": 1.0})
    with pytest.raises(ValueError, match=r"mlm_probability=1\.5 must be between 0 and 1"):
        arguments(tmp_path, mlm_probability=1.5)


@pytest.mark.parametrize("objectives", [{"relations": 1.0, "hard": 1.0}, {"relations": 1.0}])
def test_a_pretrained_encoder_can_be_fine_tuned_and_distilled_into(
    tmp_path, corpus, encoder_folder, teacher_folder, sst2_dir, objectives, caplog
):
    base = str(tmp_path / "base")
    pretrain(corpus, arguments(base, teacher=encoder_folder, objectives=objectives), EncoderArguments(layers=2))
    data = DataArguments(task="sst2", data_dir=str(sst2_dir))

    finetune(base, data, FineTuningArguments(str(tmp_path / "tuned"), **TINY))
    tuned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    assert tuned.config.num_hidden_layers == 2

    args = DistillationTrainingArguments(str(tmp_path / "student"), **TINY | {"learning_rate": 0.0})
    with caplog.at_level("INFO", "tkd_hf"):
        record = distill(str(teacher_folder), data, args, StudentArguments(student=base))
    assert "its classifier is the teacher's" in caplog.text
    assert "accuracy" in record.metrics
    assert "teacher_layers" not in record.details  # only a student cut out of its teacher has them
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").state_dict()
    expected = TKDModel.from_pretrained(base).state_dict()
    assert all(torch.equal(student[f"tkd.{name}"], weight) for name, weight in expected.items())
    head = build_teacher()
    assert torch.equal(student["dense.weight"], head.bert.pooler.dense.weight)
    assert torch.equal(student["classifier.weight"], head.classifier.weight)


@pytest.mark.parametrize("shape", [{"layers": 1}, {"layers": 1, "hidden_size": 8}], ids=["cut out", "from scratch"])
def test_dropout_can_be_turned_off(tmp_path, corpus, encoder_folder, shape):
    args = arguments(tmp_path / "base", teacher=encoder_folder, objectives={"relations": 1.0})
    pretrain(corpus, args, EncoderArguments(dropout=0.0, **shape))
    config = read_json(tmp_path / "base" / "config.json")
    assert [config[f"{part}_dropout_prob"] for part in ("hidden", "attention_probs")] == [0, 0]
    with pytest.raises(InputError, match=r"dropout=1\.0 must be at least 0 and below 1"):
        EncoderArguments(dropout=1.0)


def test_an_encoder_of_another_width_gets_a_new_classifier(
    tmp_path, corpus, tokenizer_folder, teacher_folder, sst2_dir, caplog
):
    base = str(tmp_path / "base")
    pretrain(corpus, arguments(base), EncoderArguments(layers=1, hidden_size=8), tokenizer_folder)
    data = DataArguments(task="sst2", data_dir=str(sst2_dir))
    args = DistillationTrainingArguments(str(tmp_path / "student"), **TINY)
    with caplog.at_level("INFO", "tkd_hf"):
        distill(str(teacher_folder), data, args, StudentArguments(student=base))
    assert "its classifier is initialised at random" in caplog.text
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert (student.config.hidden_size, student.config.id2label) == (8, {0: "negative", 1: "positive"})


def test_the_command_pretrains_an_encoder_and_refuses_bad_options(run, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "part.txt").write_text("\n".join(TEXTS * 10))
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    args = ["--dataset", tmp_path / "text", "--max-length", 8, "--layers", 1, "--hidden-size", 8]
    args += ["--output-dir", tmp_path / "base", *FAST.split(), "--mlm-probability", 0.3]
    code, _, err = run("pretrain", *args)
    assert (code, err.splitlines()[-1]) == (
        2,
        "tkd-hf: an encoder without a teacher needs --tokenizer, for example google-bert/bert-base-uncased",
    )
    args += ["--tokenizer", tmp_path / "tokenizer"]
    code, out, err = run("pretrain", *args, "--json", tmp_path / "p.json")
    assert code == 0
    assert "perplexity" in out
    assert "pre-training on" in err.splitlines()[0]
    assert "tkd-hf finetune" in err.splitlines()[-1]
    record = read_json(tmp_path / "p.json")
    assert (record["arguments"]["mlm_probability"], record["arguments"]["layers"]) == (0.3, 1)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "base").config.hidden_size == 8

    code, _, err = run("pretrain", *args, "--overwrite", "--objectives", '{"relations": 1.0}')
    assert (code, err.splitlines()[-1]) == (
        2,
        "tkd-hf: objectives relations need a teacher; name one, or leave them out",
    )
    code, _, err = run("pretrain", *args, "--overwrite", "--layers", "a")
    assert code == 2


def test_a_recipe_sets_the_options_of_pretraining(run, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 10))
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    stage = {"layers": 1, "hidden_size": 8, "tokenizer": str(tmp_path / "tokenizer"), "objectives": {"hard": 0.5}}
    recipe = {
        "data": {"dataset": str(tmp_path / "text.txt"), "max_length": 8},
        "stages": [{"pretrain": {**stage, "max_steps": 2}}],
        "output_dir": str(tmp_path / "base"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run("pretrain", "--config", tmp_path / "recipe.yaml", *FAST.split(), "--seed", 3)[0] == 0
    record = read_json(tmp_path / "base" / "tkd_run.json")
    expected = {"max_length": 8, "max_steps": "2", "seed": "3", "objectives": {"hard": 0.5}}
    assert {name: record["arguments"][name] for name in expected} == expected
