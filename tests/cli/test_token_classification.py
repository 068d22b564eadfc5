"""Token classification on the command line, with data in which each word determines its label."""

import json

import pytest
from transformers import AutoModelForTokenClassification, BertForTokenClassification, BertModel

from ..factories import FAST, TEXTS, WORDS, build_teacher, build_tokenizer, read_json


TAGS = {"film": "B-WORK", "story": "I-WORK", "fine": "B-WORK", "good": "B-PRAISE"}
ROWS = [
    {"tokens": text.split(), "ner_tags": [TAGS.get(word, "O") for word in text.split()]} for text in [*TEXTS, "a"] * 4
]


@pytest.fixture
def words_dir(tmp_path):
    """Return a data set of words and labels as JSON lines."""
    folder = tmp_path / "ner"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def test_finetune_label_distill_and_evaluate_work_on_tokens(run, tmp_path, teacher, tokenizer, words_dir):
    teacher.config.update({"initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    BertModel(teacher.config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    data, tuned, soft = ["--dataset", words_dir], tmp_path / "tuned", ["--soft-labels", tmp_path / "soft.safetensors"]
    longer = ["--num-train-epochs", 5, "--learning-rate", "1e-2", "--per-device-train-batch-size", 8]

    code, out, err = run("finetune", tmp_path / "encoder", *data, "--output-dir", tuned, *FAST.split(), *longer)
    assert code == 0, err
    assert "entity f1" in out
    assert read_json(tuned / "tkd_run.json")["metrics"]["entity_f1"] > 0.9
    names = {0: "B-PRAISE", 1: "B-WORK", 2: "I-WORK", 3: "O"}
    assert AutoModelForTokenClassification.from_pretrained(tuned).config.id2label == names

    assert run("label", tuned, *data, *soft, "--json", tmp_path / "label.json")[0] == 0
    assert read_json(tmp_path / "label.json")["computed"] == len(TEXTS) + 1
    assert run("label", tuned, *data, *soft, "--json", tmp_path / "label.json")[0] == 0
    assert read_json(tmp_path / "label.json")["computed"] == 0

    losses = {}
    for name, source in {"cached": soft, "live": ["--live"]}.items():
        args = ["--layers", 2, "--output-dir", tmp_path / name, *source, *FAST.split(), *longer]
        code, out, err = run("distill", tuned, *data, *args)
        assert code == 0, err
        record = read_json(tmp_path / name / "tkd_run.json")
        losses[name] = [record["metrics"][f"loss{part}"] for part in ("", "_logits", "_hard")]
        assert record["metrics"]["entity_f1"] > 0.9
    assert losses["cached"] == pytest.approx(losses["live"], rel=1e-3)

    code, out, _ = run("evaluate", tmp_path / "cached", "--teacher", tuned, *data, "--json", tmp_path / "e.json")
    assert code == 0
    rows = read_json(tmp_path / "e.json")["models"]
    assert rows[1]["metrics"]["entity_f1"] == read_json(tmp_path / "cached" / "tkd_run.json")["metrics"]["entity_f1"]
    assert rows[1]["fidelity"]["agreement"] > 0.9
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "cached").config.id2label == names


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
