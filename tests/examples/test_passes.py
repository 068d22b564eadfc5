"""The study of passes over the answers: its split, and its table in a quick size."""

import pytest
import yaml
from datasets import Dataset, load_dataset

import left_out
import passes
from tests.conftest import LABELS, read_json, write_task
from tests.examples.test_recipes import RECIPES, quick


def test_what_is_left_out_is_the_last_and_some_others(tmp_path):
    (tmp_path / "cola").mkdir()
    rows = {"sentence": [f"sentence {place}" for place in range(40)], "label": LABELS * 5, "idx": range(40)}
    Dataset.from_dict(rows).to_parquet(tmp_path / "cola" / "train.parquet")
    for _ in range(2):  # the second time it is there
        left_out.write_split("cola", str(tmp_path), tmp_path / "split", passes.split)
    files = {split: str(tmp_path / "split" / f"{split}.parquet") for split in ("train", "validation")}
    made = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert made["validation"]["sentence"][2:] == ["sentence 38", "sentence 39"]
    assert {split: len(rows) for split, rows in made.items()} == {"train": 36, "validation": 4}
    assert {*made["train"]["sentence"], *made["validation"]["sentence"]} == {*rows["sentence"]}


@pytest.mark.slow
def test_every_variant_has_a_row(no_processes, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the students are exported to ONNX")
    (path,) = (path for path in RECIPES if path.stem == "tkd-nlp-cola")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(quick(path, tmp_path)))
    write_task(tmp_path / "work" / "data", "cola")
    variants = {name: settings | {"num_train_epochs": 1} for name, settings in list(passes.VARIANTS.items())[-2:]}
    monkeypatch.setattr(passes, "VARIANTS", variants)
    words = ["--recipe", str(recipe), "--results-dir", str(tmp_path), "--work-dir", str(tmp_path / "work")]
    passes.main(words)
    found = read_json(tmp_path / "passes.json")["students"]
    assert list(found) == list(variants)
    table = (tmp_path / "passes.md").read_text()
    assert all(f"| {name} | {one['metric']:.4f} |" in table for name, one in found.items())
