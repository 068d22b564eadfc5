"""`tkd-hf pretrain` as a user types it."""

import yaml
from transformers import AutoModelForMaskedLM

from ..conftest import FAST, TEXTS, build_tokenizer, read_json


def test_pretrain(run, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "part.txt").write_text("\n".join(TEXTS * 10))
    build_tokenizer().save_pretrained(tmp_path / "words")
    words = ["--dataset", tmp_path / "text", "--max-length", 8, "--layers", 1, "--hidden-size", 8]
    words += ["--output-dir", tmp_path / "base", *FAST.split(), "--mlm-probability", 0.3]
    code, _, err = run("pretrain", *words)
    assert (code, err.splitlines()[-1]) == (
        2,
        "tkd-hf: an encoder without a teacher needs --tokenizer, for example google-bert/bert-base-uncased",
    )
    words += ["--tokenizer", tmp_path / "words"]
    code, out, err = run("pretrain", *words, "--json", tmp_path / "p.json")
    assert code == 0
    assert "perplexity" in out
    assert "pre-training on" in err.splitlines()[0]
    assert "tkd-hf finetune" in err.splitlines()[-1]
    record = read_json(tmp_path / "p.json")
    assert (record["arguments"]["mlm_probability"], record["arguments"]["layers"]) == (0.3, 1)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "base").config.hidden_size == 8

    code, _, err = run("pretrain", *words, "--overwrite", "--objectives", '{"relations": 1.0}')
    assert (code, err.splitlines()[-1]) == (
        2,
        "tkd-hf: objectives relations need a teacher; name one, or leave them out",
    )
    code, _, err = run("pretrain", *words, "--overwrite", "--layers", "a")
    assert code == 2


def test_a_recipe_for_pretraining(run, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 10))
    build_tokenizer().save_pretrained(tmp_path / "words")
    stage = {"layers": 1, "hidden_size": 8, "tokenizer": str(tmp_path / "words"), "objectives": {"hard": 0.5}}
    recipe = {
        "data": {"dataset": str(tmp_path / "text.txt"), "max_length": 8},
        "stages": [{"pretrain": {**stage, "max_steps": 2}}],
        "output_dir": str(tmp_path / "base"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run("pretrain", "--config", tmp_path / "recipe.yaml", *FAST.split(), "--seed", 3)[0] == 0
    record = read_json(tmp_path / "base" / "tkd_run.json")
    wanted = {"max_length": 8, "max_steps": "2", "seed": "3", "objectives": {"hard": 0.5}}
    assert {name: record["arguments"][name] for name in wanted} == wanted
