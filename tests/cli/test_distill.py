"""`tkd-hf label`, `tkd-hf distill` and `tkd-hf finetune` with various teachers, students and soft labels."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from tkd_hf import SoftLabels, student_from_teacher
from tkd_hf.commands import label

from ..factories import FAST, TEXTS, WORDS, build_teacher, build_tokenizer, read_json


def test_distill_works_on_pairs_with_scores(run, tmp_path, tokenizer):
    build_teacher((), problem_type="regression").save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    rows = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "label": [i / 2 for i in range(8)], "idx": list(range(8))}
    (tmp_path / "stsb").mkdir()
    for split in ("train", "validation"):
        Dataset.from_dict(rows).to_parquet(tmp_path / "stsb" / f"{split}.parquet")
    data = ["--task", "stsb", "--data-dir", tmp_path]
    out_dir = tmp_path / "student"
    shape = ["--layers", "1,3", "--heads", 1, "--intermediate-size", 8, "--dropout", 0.2]
    assert run("distill", tmp_path / "teacher", *data, *shape, "--output-dir", out_dir, "--live", *FAST.split())[0] == 0
    config = read_json(out_dir / "config.json")
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    assert [config[name] for name in dropouts] == [0.2, 0.2, 0.2]
    assert {"pearson", "spearman"} <= set(read_json(out_dir / "tkd_run.json")["metrics"])
    code, out, _ = run("evaluate", out_dir, "--teacher", tmp_path / "teacher", *data)
    assert code == 0
    assert "pearson" in out


def test_an_encoder_without_a_classifier_is_refused_as_a_teacher(run, tmp_path, teacher, tokenizer, sst2_dir):
    teacher.bert.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    for command in (["label"], ["evaluate"], ["distill", "--output-dir", tmp_path / "s", "--live"]):
        code, _, err = run(command[0], tmp_path / "encoder", *data, *command[1:])
        assert code == 2
        assert "not a trained classifier (classifier.bias, classifier.weight are missing)" in err
    assert run("finetune", tmp_path / "encoder", *data, "--output-dir", tmp_path / "t", *FAST.split())[0] == 0


def test_finetune_replaces_the_head_of_another_task(run, tmp_path, tokenizer, sst2_dir):
    build_teacher(("a", "b", "c")).save_pretrained(tmp_path / "three")
    tokenizer.save_pretrained(tmp_path / "three")
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "t", *FAST.split()]
    assert run("finetune", tmp_path / "three", *args)[0] == 0
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "t").config
    assert config.id2label == {0: "negative", 1: "positive"}


def test_finetune_keeps_the_classifier_of_a_student(run, tmp_path, teacher, tokenizer, sst2_dir):
    """A student that has changed since then is another run."""

    def save(layers):
        student = student_from_teacher(teacher, layers=layers)
        student.save_pretrained(tmp_path / "student")
        tokenizer.save_pretrained(tmp_path / "student")
        return student

    student = save([1, 3])
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "tuned", *FAST.split()]
    assert run("finetune", tmp_path / "student", *args, "--learning-rate", "1e-9")[0] == 0
    tuned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    assert type(tuned) is type(student)
    torch.testing.assert_close(tuned.state_dict(), student.state_dict(), atol=1e-6, rtol=0)
    assert (tmp_path / "tuned" / "modeling_tkd.py").exists()
    save([0, 3])
    code, _, err = run("finetune", tmp_path / "student", *args, "--learning-rate", "1e-9", "--resume")
    assert (code, "differs: model_revision was" in err) == (2, True)


def test_a_student_may_have_another_tokenizer_than_its_teacher(run, tmp_path, teacher_folder, sst2_dir):
    build_teacher(seed=5).save_pretrained(tmp_path / "small")
    build_tokenizer(WORDS[:5] + WORDS[:4:-1]).save_pretrained(tmp_path / "small")
    losses = {}
    for name in ("cached", "live"):
        args = ["--task", "sst2", "--data-dir", sst2_dir, "--student", tmp_path / "small", *FAST.split()]
        args += ["--live"] if name == "live" else []
        assert run("distill", teacher_folder, *args, "--output-dir", tmp_path / name)[0] == 0
        losses[name] = read_json(tmp_path / name / "tkd_run.json")["metrics"]["loss_logits"]
    assert losses["cached"] == pytest.approx(losses["live"], abs=1e-4)


def test_the_order_of_a_students_labels_does_not_change_the_loss(run, tmp_path, teacher_folder, tokenizer, sst2_dir):
    """A classifier with swapped rows and labels is the same student."""
    student = build_teacher(seed=5)
    student.save_pretrained(tmp_path / "straight")
    swapped = build_teacher(("POSITIVE", "NEGATIVE"), seed=5)
    swapped.load_state_dict(student.state_dict())
    for tensor in swapped.classifier.parameters():
        tensor.data = tensor.data.flip(0)
    swapped.save_pretrained(tmp_path / "swapped")
    losses = {}
    for name in ("straight", "swapped"):
        tokenizer.save_pretrained(tmp_path / name)
        args = ["--task", "sst2", "--data-dir", sst2_dir, "--student", tmp_path / name, *FAST.split()]
        args += ["--output-dir", tmp_path / f"{name} out", "--learning-rate", "1e-9"]
        assert run("distill", teacher_folder, *args)[0] == 0
        losses[name] = read_json(tmp_path / f"{name} out" / "tkd_run.json")["metrics"]["loss"]
        config = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"{name} out").config
        assert config.id2label == {0: "negative", 1: "positive"}
    assert losses["straight"] == pytest.approx(losses["swapped"], abs=1e-4)


def test_damaged_soft_labels_are_refused_and_kept(run, tmp_path, teacher_folder, sst2_dir):
    (tmp_path / "soft.safetensors").write_bytes(b"damaged")
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--soft-labels", tmp_path / "soft.safetensors"]
    code, _, err = run("label", teacher_folder, *args)
    assert (code, "soft.safetensors are damaged" in err) == (2, True)
    assert (tmp_path / "soft.safetensors").read_bytes() == b"damaged"
    assert run("label", teacher_folder, *args, "--overwrite")[0] == 0


def test_soft_labels_of_another_teacher_are_refused(run, tmp_path, teacher_folder, sst2_dir, tokenizer):
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--soft-labels", tmp_path / "soft.safetensors"]
    assert run("label", teacher_folder, *args)[0] == 0
    build_teacher(seed=1).save_pretrained(tmp_path / "second")
    tokenizer.save_pretrained(tmp_path / "second")
    code, _, err = run("distill", tmp_path / "second", *args, "--output-dir", tmp_path / "s", *FAST.split())
    assert code == 2
    assert "run `tkd-hf label` with this teacher" in err


def test_objectives_on_features_run_the_teacher_live(run, teacher_folder, sst2_dir, tmp_path):
    objectives = '{"logits": 1.0, "relations": 1.0, "hidden": 0.5}'
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--layers", 2, "--layer-map", "last", "--objectives", objectives]
    code, _, err = run("distill", teacher_folder, *args, "--output-dir", tmp_path / "out", *FAST.split())
    assert code == 0, err
    record = read_json(tmp_path / "out" / "tkd_run.json")
    assert record["arguments"]["live"] is True
    assert record["arguments"]["layer_map"] == "last"
    assert record["metrics"]["loss_relations"] > 0


def test_several_teachers_give_the_same_losses_cached_and_live(run, teacher_folder, sst2_dir, tmp_path):
    """The second teacher changes the loss."""
    second = tmp_path / "second"
    build_teacher(seed=3).save_pretrained(second)
    build_tokenizer().save_pretrained(second)
    args = ["distill", teacher_folder, "--task", "sst2", "--data-dir", sst2_dir, "--layers", 2]
    args += ["--objectives", '{"logits": 1.0}', *FAST.split()]
    several = ["--extra-teacher", second, "--teacher-weights", "1,3"]
    records = {}
    for name, more in {"alone": [], "cached": several, "live": [*several, "--live"]}.items():
        code, _, err = run(*args, *more, "--output-dir", tmp_path / name)
        assert code == 0, err
        records[name] = read_json(tmp_path / name / "tkd_run.json")
    assert records["cached"]["metrics"]["loss"] == pytest.approx(records["live"]["metrics"]["loss"], abs=1e-4)
    assert records["cached"]["metrics"]["loss"] != pytest.approx(records["alone"]["metrics"]["loss"], abs=1e-3)
    assert records["cached"]["inputs"]["teacher"] == [str(teacher_folder), str(second)]
    assert records["cached"]["arguments"]["teacher_weights"] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--teacher-weights 1,2", "teacher_weights=[1.0, 2.0] for 1 teacher; give each a weight"),
        ("--teacher-weights heavy", "--teacher-weights 'heavy' must be a list of numbers, one per teacher"),
        ("--extra-teacher {teacher} --soft-labels x", "x is one file of soft labels, but there are 2 teachers"),
    ],
)
def test_options_that_do_not_fit_the_teachers_are_refused(run, teacher_folder, sst2_dir, tmp_path, flags, message):
    args = ["distill", teacher_folder, "--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "out"]
    code, _, err = run(*args, *flags.format(teacher=teacher_folder).split())
    assert code == 2
    assert message in err.splitlines()[-1]


def test_an_interrupted_labelling_continues_from_the_last_save(teacher_folder, features, tmp_path, monkeypatch):
    monkeypatch.setattr(label, "EXAMPLES_PER_SAVE", 3)
    compute, sizes = SoftLabels.compute.__func__, []

    def compute_twice(cls, model, tokenizer, rows, *args):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(len(rows))
        return compute(cls, model, tokenizer, rows, *args)

    path = tmp_path / "labels.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(SoftLabels, "compute", classmethod(compute_twice))
        with pytest.raises(KeyboardInterrupt):
            label.complete_soft_labels(path, str(teacher_folder), "r", [features])
    assert sizes == [3, 3]  # one save's worth of examples is read at a time
    assert len(SoftLabels.load(path).keys) == 6

    resumed, computed = label.complete_soft_labels(path, str(teacher_folder), "r", [features])
    assert computed == len(TEXTS) - 6
    uninterrupted, _ = label.complete_soft_labels(
        tmp_path / "uninterrupted.safetensors", str(teacher_folder), "r", [features]
    )
    np.testing.assert_array_equal(resumed.keys, uninterrupted.keys)
    np.testing.assert_allclose(resumed.logits, uninterrupted.logits, atol=1e-5)
