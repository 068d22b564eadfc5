"""What must make no difference makes none, through the commands: in weights, soft labels and answers.

A resumed run is compared with an uninterrupted one in test_faults.py, bit for bit.
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

from tkd_hf.pruning import StructuredPruner

from ..conftest import FAST, FLOAT32, LABELS, TEXTS, build_teacher, build_tokenizer, read_json
from ..training import logits_of_texts


# SGD, for AdamW turns rounding in a gradient near 0 into whole steps; dropout draws other numbers for other batches
SGD = f"{FAST} --num-train-epochs 2 --optim sgd --learning-rate 0.05 --warmup-steps 0 --layers 2".split()
SIZE = ("--per-device-train-batch-size", "--gradient-accumulation-steps")


@pytest.fixture
def calm(tmp_path, tokenizer):
    """A teacher whose students have no dropout, as it has none."""
    build_teacher(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(tmp_path / "calm")
    tokenizer.save_pretrained(tmp_path / "calm")
    return tmp_path / "calm"


@pytest.fixture
def words(calm, sst2_dir):
    return ["distill", calm, "--task", "sst2", "--data-dir", sst2_dir, *SGD]


def assert_same(one: Path, other: Path, start: Path, **tolerance):
    """Two students that have learned, and have learned the same."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **tolerance or {"atol": 1e-5, "rtol": 1e-4})
    began = load_file(start / "model.safetensors")["classifier.weight"]
    assert not torch.allclose(first["classifier.weight"], began, atol=1e-3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([], ["--live"]),
        ([SIZE[0], 8], [SIZE[0], 2, SIZE[1], 4]),
        ([SIZE[0], 8], [SIZE[0], 4, SIZE[1], 2, "--live"]),
    ],
    ids=["cached is live", "1 of 8 is 4 of 2", "both"],
)
def test_students_are_the_same(run, words, calm, tmp_path, one, other):
    for name, more in (("one", one), ("other", other)):
        code, _, err = run(*words, "--output-dir", tmp_path / name, *more)
        assert code == 0, err
    assert_same(tmp_path / "one", tmp_path / "other", calm)


@pytest.mark.slow
def test_two_ranks_are_one(run, words, calm, tmp_path):
    assert run(*words, "--output-dir", tmp_path / "one", SIZE[0], 8)[0] == 0
    (tmp_path / "command.py").write_text(f"{FLOAT32}from tkd_hf.cli import main\nmain()\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = [*words, "--output-dir", tmp_path / "two", SIZE[0], 4]
    done = subprocess.run(
        [*launch, str(tmp_path / "command.py"), *map(str, two)],
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("\nnext: ") == 1, done.stderr[-3000:]  # one speaks for all
    assert_same(tmp_path / "one", tmp_path / "two", calm)


def test_what_is_masked_is_what_is_saved(run, calm, sst2_dir, tmp_path, monkeypatch):
    """The student in its last step, with masks, answers as the smaller one that is loaded from its folder."""
    compacted, masked = StructuredPruner.compact, []

    def noted(pruner):
        masked.append(logits_of_texts(pruner.model, build_tokenizer()))
        return compacted(pruner)

    monkeypatch.setattr(StructuredPruner, "compact", noted)
    data = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "pruned", *FAST.split()]
    code, _, err = run("prune", calm, *data, "--target-params", 0.8)
    assert code == 0, err
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    torch.testing.assert_close(logits_of_texts(loaded, build_tokenizer()), masked[-1], atol=1e-5, rtol=1e-5)


def test_answers_of_any_order_batch_and_padding(run, teacher_folder, tmp_path):
    """The soft labels of a text are the same; and so is what `evaluate` says of all texts."""
    found = []
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
        found.append((load_file(files["soft"]), read_json(files["json"])["models"][0]["metrics"]))
    for soft, metrics in found[1:]:
        assert torch.equal(soft["keys"], found[0][0]["keys"])
        torch.testing.assert_close(soft["logits"], found[0][0]["logits"], atol=1e-5, rtol=1e-5)
        assert metrics == found[0][1]
