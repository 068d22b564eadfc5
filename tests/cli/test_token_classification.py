"""Token classification on the command line, with data in which each word determines its label."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoModelForTokenClassification, BertForTokenClassification, BertModel

from ..factories import FAST, TEXTS, WORDS, build_teacher, build_tokenizer, read_json


TAGS = {"film": "B-WORK", "story": "I-WORK", "fine": "B-WORK", "good": "B-PRAISE"}
ROWS = [
    {"tokens": text.split(), "ner_tags": [TAGS.get(word, "O") for word in text.split()]} for text in [*TEXTS, "a"] * 4
]


NAMES = {0: "B-PRAISE", 1: "B-WORK", 2: "I-WORK", 3: "O"}


def write_words(folder: Path) -> Path:
    """Write a data set of words and labels as JSON lines."""
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.fixture
def words_dir(tmp_path):
    return write_words(tmp_path / "ner")


@pytest.fixture(scope="module")
def workflow(shared):
    """Fine-tune a teacher, label twice, distil with cached and with live soft labels, and evaluate."""
    teacher, encoder, tuned = build_teacher(), shared.path / "encoder", shared.path / "tuned"
    teacher.config.update({"initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    BertModel(teacher.config).save_pretrained(encoder)
    build_tokenizer().save_pretrained(encoder)
    data = ["--dataset", write_words(shared.path / "ner")]
    soft_labels = ["--soft-labels", shared.path / "soft.safetensors"]
    training = [*FAST.split(), "--num-train-epochs", 5, "--learning-rate", "1e-2", "--per-device-train-batch-size", 8]
    file = shared.path / "result.json"

    def run(*args):
        out, _ = shared.run(*args, *data, "--json", file)
        return SimpleNamespace(out=out, content=read_json(file))

    return SimpleNamespace(
        tuned=tuned,
        student=shared.path / "cached",
        finetune=run("finetune", encoder, "--output-dir", tuned, *training),
        labels=[run("label", tuned, *soft_labels) for _ in range(2)],
        distillations=[
            run("distill", tuned, "--layers", 2, "--output-dir", shared.path / name, *source, *training)
            for name, source in {"cached": soft_labels, "live": ["--live"]}.items()
        ],
        evaluate=run("evaluate", shared.path / "cached", "--teacher", tuned),
    )


def test_finetuning_on_tokens_learns_the_entities(workflow):
    assert "entity f1" in workflow.finetune.out
    assert workflow.finetune.content["metrics"]["entity_f1"] > 0.9


def test_teacher_and_student_of_tokens_name_their_labels(workflow):
    for folder in (workflow.tuned, workflow.student):
        assert AutoModelForTokenClassification.from_pretrained(folder).config.id2label == NAMES


def test_soft_labels_of_tokens_are_computed_once_per_distinct_text(workflow):
    assert [label.content["computed"] for label in workflow.labels] == [len(TEXTS) + 1, 0]


def test_cached_and_live_soft_labels_of_tokens_give_the_same_losses(workflow):
    cached, live = (
        [result.content["metrics"][f"loss{part}"] for part in ("", "_logits", "_hard")]
        for result in workflow.distillations
    )
    assert cached == pytest.approx(live, rel=1e-3)


def test_a_student_of_tokens_learns_the_entities_and_agrees_with_its_teacher(workflow):
    assert min(result.content["metrics"]["entity_f1"] for result in workflow.distillations) > 0.9
    student = workflow.evaluate.content["models"][1]
    assert student["metrics"]["entity_f1"] == workflow.distillations[0].content["metrics"]["entity_f1"]
    assert student["fidelity"]["agreement"] > 0.9


def test_a_text_classifier_is_refused_as_a_teacher_for_tokens(run, tmp_path, teacher_folder, words_dir):
    args = ["--dataset", words_dir, "--label-names", "B-PRAISE,B-WORK,I-WORK,O"]
    for command in (["label"], ["evaluate"], ["distill", "--output-dir", tmp_path / "out", "--live"]):
        code, _, err = run(command[0], teacher_folder, *args, *command[1:])
        assert code == 2
        assert "is BertForSequenceClassification, but the data asks for token_classification; name a model" in err


def test_a_student_with_another_tokenizer_is_refused_for_tokens(run, tmp_path, tokenizer, words_dir):
    teacher = build_teacher(tuple("abcd"), kind=BertForTokenClassification)
    for name, own_tokenizer in {"teacher": tokenizer, "student": build_tokenizer(WORDS[:5] + WORDS[:4:-1])}.items():
        teacher.save_pretrained(tmp_path / name)
        own_tokenizer.save_pretrained(tmp_path / name)
    args = ["--dataset", words_dir, "--label-names", "a,b,c,d", "--student", tmp_path / "student"]
    args += ["--output-dir", tmp_path / "out"]
    code, _, err = run("distill", tmp_path / "teacher", *args)
    assert code == 2
    assert "are not among the 4 labels: ['a', 'b', 'c', 'd']" in err
    (words_dir / "train.jsonl").write_text('{"tokens": ["good", "film"], "tags": ["a", "d"]}\n')
    (words_dir / "validation.jsonl").write_text('{"tokens": ["good", "film"], "tags": ["a", "d"]}\n')
    code, _, err = run("distill", tmp_path / "teacher", *args)
    assert code == 2
    assert f"the tokenizers of the student, {tmp_path / 'student'} (15 tokens), and the teacher, {tmp_path}" in err


def test_words_without_labels_are_learned_from_the_teacher(run, tmp_path, tagger, tokenizer, words_dir):
    for part in (tagger, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    for split in ("train", "validation"):
        lines = [json.dumps({"tokens": row["tokens"]}) + "\n" for row in ROWS]
        (words_dir / f"{split}.jsonl").write_text("".join(lines))
    args = ["--dataset", words_dir, "--layers", 2, *FAST.split()]
    for name, live in {"cached": [], "live": ["--live"]}.items():
        code, _, err = run("distill", tmp_path / "teacher", *args, "--output-dir", tmp_path / name, *live)
        assert code == 0, err
    metrics = [read_json(tmp_path / name / "tkd_run.json")["metrics"] for name in ("cached", "live")]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-3)
    assert 0 < metrics[0]["agreement"] <= 1
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "live").config.id2label[0] == "B-X"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "distill {teacher} --dataset {data} --output-dir {out} --unlabelled {data}",
            "words without a label are ignored",
        ),
        ("label {teacher} --dataset {data} --unlabelled {data}", "words without a label are ignored"),
        ("augment --dataset {data} --output-dir {out} --shuffle-pairs", "lists of words in 'tokens'"),
    ],
)
def test_options_for_texts_are_refused_for_lists_of_words(run, tmp_path, tagger, tokenizer, words_dir, args, message):
    for part in (tagger, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    names = {"teacher": tmp_path / "teacher", "data": words_dir, "out": tmp_path / "out"}
    code, _, err = run(*(word.format(**names) for word in args.split()))
    assert (code, message in err.strip().splitlines()[-1]) == (2, True), err
