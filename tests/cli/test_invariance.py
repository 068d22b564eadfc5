"""Invariances of the commands: weights, soft labels and predictions that must be equal are equal.

`test_faults.py` compares a resumed run with an uninterrupted one bit for bit.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tkd_hf.pruning.pruner import StructuredPruner

from ..factories import FAST, FLOAT32, LABELS, TEXTS, build_teacher, build_tokenizer, logits_of_texts, read_json


# SGD, because AdamW turns rounding of a gradient near 0 into a full step.
SGD = f"{FAST} --num-train-epochs 2 --optim sgd --learning-rate 0.05 --warmup-steps 0 --layers 2".split()
SIZE = ("--per-device-train-batch-size", "--gradient-accumulation-steps")


@pytest.fixture
def no_dropout_teacher(tmp_path, tokenizer):
    """Return a teacher without dropout, which would draw other numbers for other batches."""
    build_teacher(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def args(no_dropout_teacher, sst2_dir):
    return ["distill", no_dropout_teacher, "--task", "sst2", "--data-dir", sst2_dir, *SGD]


def assert_equal_students(folders: list[Path], start: Path, **tolerance):
    """Assert that two students are equal, and differ from the model they started from."""
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **tolerance or {"atol": 1e-5, "rtol": 1e-4})
    initial = load_file(start / "model.safetensors")["classifier.weight"]
    assert not torch.allclose(first["classifier.weight"], initial, atol=1e-3)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], ["--live"]),
        ([SIZE[0], 8], [SIZE[0], 2, SIZE[1], 4]),
        ([SIZE[0], 8], [SIZE[0], 4, SIZE[1], 2, "--live"]),
    ],
    ids=["soft labels", "accumulation", "both"],
)
def test_students_are_equal_for_live_teachers_and_accumulated_batches(
    run, args, no_dropout_teacher, tmp_path, first, second
):
    for name, more in (("first", first), ("second", second)):
        code, _, err = run(*args, "--output-dir", tmp_path / name, *more)
        assert code == 0, err
    assert_equal_students([tmp_path / "first", tmp_path / "second"], no_dropout_teacher)


@pytest.mark.slow
def test_two_processes_train_the_same_student_as_one(run, args, no_dropout_teacher, tmp_path):
    assert run(*args, "--output-dir", tmp_path / "one", SIZE[0], 8)[0] == 0
    (tmp_path / "command.py").write_text(f"{FLOAT32}from tkd_hf.cli import main\nmain()\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = [*args, "--output-dir", tmp_path / "two", SIZE[0], 4]
    done = subprocess.run(
        [*launch, str(tmp_path / "command.py"), *map(str, two)],
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("\nnext: ") == 1, done.stderr[-3000:]  # only the first process prints
    assert_equal_students([tmp_path / "one", tmp_path / "two"], no_dropout_teacher)


def test_a_pruned_student_gives_the_same_logits_masked_and_saved(
    run, no_dropout_teacher, sst2_dir, tmp_path, monkeypatch
):
    compact, masked = StructuredPruner.compact, []

    def compact_and_record(pruner):
        masked.append(logits_of_texts(pruner.model, build_tokenizer()))
        return compact(pruner)

    monkeypatch.setattr(StructuredPruner, "compact", compact_and_record)
    data = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "pruned", *FAST.split()]
    code, _, err = run("prune", no_dropout_teacher, *data, "--target-params", 0.8)
    assert code == 0, err
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    torch.testing.assert_close(logits_of_texts(loaded, build_tokenizer()), masked[-1], atol=1e-5, rtol=1e-5)


def test_soft_labels_and_metrics_do_not_depend_on_order_batch_or_padding(run, teacher_folder, tmp_path):
    results = []
    for name, order, size, side in (("a", 1, 8, "right"), ("b", -1, 3, "right"), ("c", 1, 8, "left")):
        tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
        tokenizer.padding_side = side
        tokenizer.save_pretrained(teacher_folder)
        rows = Dataset.from_dict(
            {"text": TEXTS[::order], "label": [("negative", "positive")[i] for i in LABELS[::order]]}
        )
        rows.to_parquet(tmp_path / f"{name}.parquet")
        data = ["--dataset", tmp_path / f"{name}.parquet", "--train-split", "train", "--eval-split", "train"]
        files = {kind: tmp_path / f"{name}-{kind}" for kind in ("soft", "json")}
        more = ["--batch-size", size]
        assert run("label", teacher_folder, *data, *more, "--soft-labels", files["soft"])[0] == 0
        assert run("evaluate", teacher_folder, *data, *more, "--json", files["json"])[0] == 0
        results.append((load_file(files["soft"]), read_json(files["json"])["models"][0]["metrics"]))
    for soft, metrics in results[1:]:
        assert torch.equal(soft["keys"], results[0][0]["keys"])
        torch.testing.assert_close(soft["logits"], results[0][0]["logits"], atol=1e-5, rtol=1e-5)
        assert metrics == results[0][1]
