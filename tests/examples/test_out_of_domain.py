"""The table of other domains, of tiny models on texts made here."""

import pytest
from datasets import Dataset

from tests.conftest import LABELS, TEXTS, build_teacher, build_tokenizer, read_json


@pytest.fixture
def out_of_domain(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")  # as the quickstart sets it, so that it does not outlive this
    import out_of_domain

    return out_of_domain


@pytest.mark.slow
def test_each_domain_has_a_row_a_student_with_its_interval(out_of_domain, monkeypatch, tmp_path):
    stages = [out_of_domain.TEACHER, *out_of_domain.STUDENTS]
    for seed, stage in enumerate(stages):
        build_teacher(seed=seed).save_pretrained(tmp_path / "run" / stage)
        build_tokenizer().save_pretrained(tmp_path / "run" / stage)
    labels = [("negative", "positive")[label] for label in LABELS]
    texts = Dataset.from_dict({"text": TEXTS, "label": labels})
    texts.to_parquet(tmp_path / "reviews" / "test.parquet")
    asked = []
    monkeypatch.setattr(out_of_domain, "rated_texts", lambda kind: asked.append(kind) or texts.select(range(4)))
    flags = {"--run-dir": "run", "--reviews": "reviews", "--work-dir": "work", "--results-dir": "results"}
    words = [word for flag, place in flags.items() for word in (flag, str(tmp_path / place))]
    out_of_domain.main(words)
    out_of_domain.main(words)
    assert asked == ["amazonReviewSnippets", "tweets", "nytEditorialSnippets"]  # fetched once

    found = read_json(tmp_path / "results" / "out_of_domain.json")["domains"]
    assert [one["examples"] for one in found.values()] == [len(TEXTS), 4, 4, 4]
    table = (tmp_path / "results" / "out_of_domain.md").read_text().splitlines()
    rows = [line for line in table if line.startswith(("| **", "| 3", "| 2"))]
    assert len(rows) == 4 * len(stages)
    teacher, student = found["tweets"]["models"][:2]
    change = student["metrics"]["accuracy"] - teacher["metrics"]["accuracy"]
    assert f"| {change:+.4f} [" in rows[2 * len(stages) + 1]
