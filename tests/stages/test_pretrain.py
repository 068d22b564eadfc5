"""Pre-training on a tiny corpus, and what can be done with the base afterwards."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    EvalPrediction,
)

from tkd_hf import DistillationTrainer, DistillationTrainingArguments, FineTuningArguments, TKDForMaskedLM, TKDModel
from tkd_hf.conversion import tkd_state_dict_from
from tkd_hf.data.corpus import CorpusArguments
from tkd_hf.data.loading import DataArguments
from tkd_hf.errors import InputError
from tkd_hf.stages.distill import distill
from tkd_hf.stages.finetune import finetune
from tkd_hf.stages.pretrain import (
    EncoderArguments,
    PretrainingArguments,
    masked_lm_metrics,
    pretrain,
    score_sequences,
)
from tkd_hf.stages.student import StudentArguments

from ..conftest import TEXTS, WORDS, build_teacher, build_tokenizer, read_json


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
def words(tmp_path):
    build_tokenizer().save_pretrained(tmp_path / "words")
    return str(tmp_path / "words")


@pytest.fixture
def encoder_folder(tmp_path):
    """A teacher encoder without a masked-LM head, as MiniLM is."""
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


def test_from_scratch(tmp_path, corpus, words):
    args = arguments(tmp_path / "base", learning_rate=5e-3, num_train_epochs=8)
    shape = EncoderArguments(layers=2, hidden_size=16, heads=2)
    record = pretrain(corpus, args, shape, words)
    assert set(record.metrics) >= {"loss", "loss_hard", "masked_accuracy", "perplexity"}
    assert record.metrics["perplexity"] < len(WORDS) * 0.75  # that of guessing is the size of the vocabulary
    assert record.metrics["loss"] == pytest.approx(record.metrics["loss_hard"])
    model = TKDForMaskedLM.from_pretrained(tmp_path / "base")
    assert (model.config.hidden_size, model.config.intermediate_size) == (16, 64)
    assert (model.config.vocab_size, model.config.pad_token_id) == (len(WORDS), 0)
    assert read_json(tmp_path / "base" / "tkd_run.json")["arguments"]["mlm_probability"] == 0.15


def test_from_a_teacher_without_a_head(tmp_path, corpus, encoder_folder):
    record = pretrain(corpus, arguments(tmp_path / "base", teacher=encoder_folder), EncoderArguments(layers=2))
    assert {"loss_hard", "loss_relations", "perplexity"} <= set(record.metrics)
    assert record.metrics["loss"] == pytest.approx(
        record.metrics["loss_hard"] + record.metrics["loss_relations"], rel=1e-4
    )
    assert TKDForMaskedLM.from_pretrained(tmp_path / "base").config.num_hidden_layers == 2
    with pytest.raises(InputError, match=r"'logits' needs a teacher that predicts tokens, .* has no masked-LM head"):
        pretrain(corpus, arguments(tmp_path / "x", teacher=encoder_folder, objectives={"logits": 1.0}))
    assert not (tmp_path / "x").exists()


def test_from_features_alone_nothing_is_masked(tmp_path, corpus, masked_lm_folder, monkeypatch):
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


def test_from_the_logits_of_a_masked_lm(tmp_path, corpus, masked_lm_folder):
    """The whole teacher as its own student has nothing left to learn from it."""
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


def test_from_scratch_with_a_teacher_of_another_width(tmp_path, corpus, encoder_folder):
    shape = EncoderArguments(layers=2, hidden_size=8, heads=1)
    record = pretrain(corpus, arguments(tmp_path / "base", teacher=encoder_folder), shape)
    assert "loss_relations" in record.metrics
    assert TKDForMaskedLM.from_pretrained(tmp_path / "base").config.hidden_size == 8


@pytest.mark.parametrize("objectives", [{"hard": 1.0}, {"hard": 1.0, "relations": 1.0, "hidden": 1.0}])
def test_an_interrupted_run_resumes_to_the_same_base(tmp_path, corpus, encoder_folder, objectives, monkeypatch):
    """Bit for bit: order, masks and dropout, whichever step of whichever epoch it stopped in."""
    fields = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2, "gradient_accumulation_steps": 2}
    fields |= {"teacher": encoder_folder, "objectives": objectives}
    shape = EncoderArguments(layers=2)
    whole = pretrain(corpus, arguments(tmp_path / "whole", **fields), shape)

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
                pretrain(corpus, arguments(tmp_path / "parts", **fields), shape, resume=last == 3)
    parts = pretrain(corpus, arguments(tmp_path / "parts", **fields), shape, resume=True)
    weights = [TKDForMaskedLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "parts")]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    assert {**whole.metrics, "seconds_per_epoch": 0} == {**parts.metrics, "seconds_per_epoch": 0}
    assert pretrain(corpus, arguments(tmp_path / "parts", **fields), shape, resume=True).finished == parts.finished


def test_scores_of_sequences_by_hand():
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
        (lambda folder, teacher, words: ({}, {}, None), "an encoder without a teacher needs --tokenizer"),
        (lambda folder, teacher, words: ({}, {"layers": (0, 2)}, words), r"layers=\[0, 2\] select a teacher's layers"),
        (lambda folder, teacher, words: ({"teacher": teacher}, {"layers": 9}, None), "num_hidden_layers=9"),
        (
            lambda folder, teacher, words: ({"teacher": teacher}, {}, save_tokenizer(folder)),
            "have different tokenizers",
        ),
        (lambda folder, teacher, words: ({"teacher": folder / "none"}, {}, None), "neither a folder with a loadable"),
    ],
)
def test_what_does_not_fit(tmp_path, corpus, encoder_folder, words, make, message):
    fields, shape, tokenizer = make(tmp_path, encoder_folder, words)
    fields = {name: str(value) for name, value in fields.items()}
    with pytest.raises(InputError, match=message):
        pretrain(corpus, arguments(tmp_path / "base", **fields), EncoderArguments(**shape), tokenizer)
    assert not (tmp_path / "base").exists()


def save_tokenizer(folder):
    build_tokenizer([*WORDS, "more"]).save_pretrained(folder / "other")
    return str(folder / "other")


def test_a_teacher_too_small_for_tokenizer_or_text(tmp_path, corpus, encoder_folder):
    build_tokenizer([*WORDS, "more"]).save_pretrained(encoder_folder)
    with pytest.raises(InputError, match=f"has a token with id {len(WORDS)}, but the model has only {len(WORDS)} word"):
        pretrain(corpus, arguments(tmp_path / "base", teacher=encoder_folder))
    build_tokenizer().save_pretrained(encoder_folder)
    long = CorpusArguments(corpus.dataset, max_length=33)
    with pytest.raises(InputError, match="max_length=33, but the teacher reads at most 32"):
        pretrain(long, arguments(tmp_path / "base", teacher=encoder_folder))


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="objectives relations need a teacher"):
        arguments(tmp_path, objectives={"relations": 1.0, "hard": 1.0})
    with pytest.raises(ValueError, match=r"mlm_probability=1\.5 must be between 0 and 1"):
        arguments(tmp_path, mlm_probability=1.5)


@pytest.mark.parametrize("objectives", [{"relations": 1.0, "hard": 1.0}, {"relations": 1.0}])
def test_a_base_is_fine_tuned_and_distilled_into(
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
    assert "teacher_layers" not in record.details  # which only a student has that is cut out of its teacher
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").state_dict()
    expected = TKDModel.from_pretrained(base).state_dict()
    assert all(torch.equal(student[f"tkd.{name}"], weight) for name, weight in expected.items())
    head = build_teacher()
    assert torch.equal(student["dense.weight"], head.bert.pooler.dense.weight)
    assert torch.equal(student["classifier.weight"], head.classifier.weight)


@pytest.mark.parametrize("shape", [{"layers": 1}, {"layers": 1, "hidden_size": 8}], ids=["cut out", "from scratch"])
def test_without_dropout(tmp_path, corpus, encoder_folder, shape):
    args = arguments(tmp_path / "base", teacher=encoder_folder, objectives={"relations": 1.0})
    pretrain(corpus, args, EncoderArguments(dropout=0.0, **shape))
    config = read_json(tmp_path / "base" / "config.json")
    assert [config[f"{part}_dropout_prob"] for part in ("hidden", "attention_probs")] == [0, 0]
    with pytest.raises(InputError, match=r"dropout=1\.0 must be at least 0 and below 1"):
        EncoderArguments(dropout=1.0)


def test_a_base_of_another_width_gets_a_new_classifier(tmp_path, corpus, words, teacher_folder, sst2_dir, caplog):
    base = str(tmp_path / "base")
    pretrain(corpus, arguments(base), EncoderArguments(layers=1, hidden_size=8), words)
    data = DataArguments(task="sst2", data_dir=str(sst2_dir))
    args = DistillationTrainingArguments(str(tmp_path / "student"), **TINY)
    with caplog.at_level("INFO", "tkd_hf"):
        distill(str(teacher_folder), data, args, StudentArguments(student=base))
    assert "its classifier is initialised at random" in caplog.text
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert (student.config.hidden_size, student.config.id2label) == (8, {0: "negative", 1: "positive"})
