"""Pruning, quantization and out-of-domain benchmarks in their quick size."""

import pytest
from datasets import Dataset

import out_of_domain
import pruning
import quantization
from tests.conftest import read_json


def rows_of(folder, name: str, section: str = "runs") -> list[dict]:
    text = (folder / name).read_text()
    assert str(folder) not in text
    return read_json(folder / name)[section]


@pytest.mark.slow
def test_pruning_measures_every_student_of_every_seed(no_processes, tmp_path):
    pruning.main(["--quick", "--seeds", "0", "1", "--work-dir", str(tmp_path)])
    rows = rows_of(tmp_path, "pruning.json")
    students = [student.name for student in pruning.QUICK_STUDENTS]
    assert [(row["seed"], row["student"]) for row in rows] == [(seed, name) for seed in (0, 1) for name in students]
    pruned, shallow = rows[:2]
    assert pruned["teacher"] == shallow["teacher"]
    assert pruned["megabytes"] < pruned["teacher_megabytes"]
    assert 0 <= shallow["agreement"] <= 1
    assert all(row["speedup"] > 0 for row in rows)
    pruning.main(["--quick", "--seeds", "0", "--work-dir", str(tmp_path)])
    assert len(rows_of(tmp_path, "pruning.json")) == len(rows)  # the other seed's rows stay


@pytest.mark.slow
def test_quantization_measures_every_scheme_and_skips_missing_backends(no_processes, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    load_backend = quantization.load_backend

    def without_quanto(name: str):
        if name == "quanto":
            raise ImportError("no quanto here")
        return load_backend(name)

    monkeypatch.setattr(quantization, "load_backend", without_quanto)
    quantization.main(["--quick", "--backends", "onnx", "quanto", "--work-dir", str(tmp_path)])
    assert "skipping quanto: no quanto here" in capsys.readouterr().err
    rows = rows_of(tmp_path, "quantization.json")
    schemes = ["int8-dynamic", "int8-dynamic-int4-embeddings", "float32"]
    models = ["teacher", "3 layers, smaller vocabulary"]
    assert [(row["model"], row["weights"]) for row in rows] == [
        *((model, "float32") for model in models),
        *((model, scheme) for model in models for scheme in schemes),
    ]
    assert (rows[0]["agreement"], rows[0]["timings"][0]["speedup"]) == (None, 1)


@pytest.mark.slow
def test_out_of_domain_has_a_row_per_domain_and_model(tmp_path):
    out_of_domain.main(["--quick", "--work-dir", str(tmp_path)])
    rows = rows_of(tmp_path, "family.json", "out_of_domain")
    models = ["teacher", *(out_of_domain.SIZES[stage] for stage in out_of_domain.STUDENTS)]
    assert [(row["domain"], row["model"]) for row in rows] == [
        (domain, model) for domain in out_of_domain.DOMAINS for model in models
    ]
    teacher, student = rows[:2]
    assert student["change"] == pytest.approx(student["accuracy"] - teacher["accuracy"])
    low, high = student["interval"]
    assert low <= student["change"] <= high


def test_texts_of_a_domain_are_fetched_once(tmp_path, monkeypatch):
    kinds = []
    texts = Dataset.from_dict({"text": ["good"], "label": ["positive"]})
    monkeypatch.setattr(out_of_domain, "rated_texts", lambda kind: kinds.append(kind) or texts)
    for _ in range(2):
        out_of_domain.fetch("tweets", tmp_path / "tweets")
    assert kinds == ["tweets"]
