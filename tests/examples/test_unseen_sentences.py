"""The study of unseen sentences: its split, and its table in a quick size."""

import pytest
import yaml
from datasets import Dataset, load_dataset

import left_out
import unseen_sentences
from tests.conftest import read_json, write_task
from tests.examples.test_recipes import RECIPES, quick


PHRASES = [
    "a movie that is good and that is long",
    "is good and that is long",
    "good",
    "a movie that is bad and much too short",
    "much too short",
    "sho",
    "bad",
]


def test_sentences_are_the_long_phrases_that_no_longer_one_has():
    assert unseen_sentences.sentences(PHRASES) == [PHRASES[3], PHRASES[0]]


def test_what_is_left_out_shares_no_phrase_with_what_is_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(unseen_sentences, "SENTENCES", 1)
    monkeypatch.setattr(unseen_sentences, "PHRASES", 3)
    (tmp_path / "sst2").mkdir()
    rows = Dataset.from_dict({"sentence": PHRASES, "label": [1, 1, 1, 0, 0, 0, 0]})
    rows.to_parquet(tmp_path / "sst2" / "train.parquet")
    left_out.write_split("sst2", str(tmp_path), tmp_path / "split", unseen_sentences.split)
    files = {split: str(tmp_path / "split" / f"{split}.parquet") for split in ("train", "validation")}
    made = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    (sentence,) = made["validation"]["sentence"]
    assert sentence in (PHRASES[0], PHRASES[3])
    assert len(made["train"]) == 3  # "good" or "bad" may be among them, and "sho", which is no word of either
    assert not any(f" {phrase} " in f" {sentence} " for phrase in made["train"]["sentence"])


@pytest.mark.slow
def test_every_variant_has_a_row(no_processes, tmp_path, monkeypatch):
    (path,) = (path for path in RECIPES if path.stem == "tkd-nlp-sst2")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(quick(path, tmp_path)))
    variants = {stage: (name, {"max_steps": 1}) for stage, (name, _) in unseen_sentences.VARIANTS.items()}
    monkeypatch.setattr(unseen_sentences, "VARIANTS", variants)
    words = ["--recipe", str(recipe), "--data-dir", str(tmp_path / "data"), "--results-dir", str(tmp_path)]
    write_task(tmp_path / "work" / "data", "sst2")
    unseen_sentences.main([*words, "--work-dir", str(tmp_path / "work")])
    found = read_json(tmp_path / "unseen_sentences.json")["students"]
    assert list(found) == [name for name, _ in variants.values()]
    table = (tmp_path / "unseen_sentences.md").read_text()
    assert all(f"| {name} | {one['accuracy']:.4f} |" in table for name, one in found.items())
