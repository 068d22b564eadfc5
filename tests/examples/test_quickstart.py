"""The quickstart runs to its end on a tiny encoder and eight sentences."""

import pytest
from datasets import Dataset

import quickstart
from tests.conftest import LABELS, TEXTS, build_teacher, build_tokenizer, read_json


@pytest.mark.slow
def test_quickstart_compares_teacher_student_and_int8(tmp_path, monkeypatch, capsys):
    """Everything but the two downloads. It takes 20 seconds: two trainings, an export to ONNX and an evaluation."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    encoder, reviews = tmp_path / "encoder", tmp_path / "reviews"
    build_teacher(layers=6).save_pretrained(encoder)
    build_tokenizer().save_pretrained(encoder)
    reviews.mkdir()
    labels = ["negative" if label == 0 else "positive" for label in LABELS]
    for split in ("train", "validation", "test"):
        Dataset.from_dict({"text": TEXTS, "label": labels}).to_parquet(reviews / f"{split}.parquet")
    monkeypatch.setattr(quickstart, "fetch_encoder", lambda folder: encoder)
    monkeypatch.setattr(quickstart, "fetch_reviews", lambda folder: reviews)
    quickstart.main(["--seed", "3"])
    results = read_json(quickstart.FOLDER / "results-3.json")
    assert [results["split"], results["examples"]] == ["test", len(TEXTS)]
    assert [model["backend"] for model in results["models"]] == ["pytorch", "pytorch", "onnx"]
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in quickstart.SENTENCES)
    teacher, _, int8 = results["models"]
    assert f"keeps {int8['metrics']['accuracy'] / teacher['metrics']['accuracy']:.1%}" in printed
