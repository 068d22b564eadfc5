"""The table of other domains, of tiny models on texts made here."""

import sys

import pytest
from datasets import Dataset

from tests.conftest import LABELS, TEXTS, build_teacher, build_tokenizer, read_json


@pytest.fixture
def out_of_domain(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")  # as the quickstart sets it, so that it does not outlive this
    import out_of_domain

    return out_of_domain


@pytest.mark.slow
def test_each_domain_has_a_row_with_its_interval(out_of_domain, monkeypatch, tmp_path):
    for name, seed in (("teacher", 0), ("student", 1)):
        build_teacher(seed=seed).save_pretrained(tmp_path / name)
        build_tokenizer().save_pretrained(tmp_path / name)
        monkeypatch.setattr(out_of_domain, name.upper(), str(tmp_path / name))
    labels = [("negative", "positive")[label] for label in LABELS]
    texts = Dataset.from_dict({"text": TEXTS, "label": labels})
    texts.to_parquet(tmp_path / "data" / "test.parquet")
    monkeypatch.setattr(out_of_domain, "DATA", str(tmp_path / "data"))
    asked = []
    monkeypatch.setattr(out_of_domain, "rated_texts", lambda kind: asked.append(kind) or texts.select(range(4)))
    words = ["--work-dir", str(tmp_path / "work"), "--results-dir", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["out_of_domain.py", *words])
    out_of_domain.main()
    out_of_domain.main()
    assert asked == ["amazonReviewSnippets", "tweets", "nytEditorialSnippets"]  # fetched once

    found = read_json(tmp_path / "results" / "out_of_domain.json")["domains"]
    assert [one["examples"] for one in found.values()] == [len(TEXTS), 4, 4, 4]
    table = (tmp_path / "results" / "out_of_domain.md").read_text().splitlines()
    rows = [line for line in table if line.startswith(("| movie", "| product", "| tweets", "| editorials"))]
    assert len(rows) == 4
    teacher, student = found["tweets"]["models"]
    change = student["metrics"]["accuracy"] - teacher["metrics"]["accuracy"]
    assert f"| {change:+.4f} [" in rows[2]
