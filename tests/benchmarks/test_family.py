"""The family's recipes run in their quick size, and their reports become rows and cards."""

import json

import pytest
import yaml

import cards
import common
import family
from tests.factories import read_json
from tkd_hf.data.tasks import GLUE_TASKS


NAMES = sorted(path.stem for path in family.RECIPES.glob("tkd-nlp-*.yaml"))


@pytest.fixture
def in_process(run, monkeypatch):
    """`tkd-hf run` runs in this process, which has loaded everything already."""

    def call(*arguments):
        code, _, error = run(*arguments)
        assert code == 0, error

    monkeypatch.setattr(family, "tkd_hf_run", call)


def test_there_is_a_recipe_for_each_task_of_the_family():
    tasks = {name.removeprefix("tkd-nlp-") for name in NAMES}
    assert tasks == {"sst2", "mrpc", "stsb", "cola", "rte", "banking77", "clinc150", "reviews"}
    for name in NAMES:
        text = (family.RECIPES / f"{name}.yaml").read_text()
        recipe = yaml.safe_load(text)
        assert recipe["data"].get("task", "sst2") in GLUE_TASKS
        assert recipe["output_dir"] == f"runs/{name}"
        assert f"tkd-hf run benchmarks/recipes/{name}.yaml" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "tkd-12l-sst2"])
def test_a_recipe_in_its_quick_size_gives_a_row_and_cards(name, in_process, no_processes, tmp_path):
    pytest.importorskip("onnxruntime", reason="the recipes export to ONNX")
    family.main(["--quick", "--recipes", name, "--seeds", "42", "--work-dir", str(tmp_path)])
    (row,) = read_json(tmp_path / "results.json")["family"]
    sizes = family.TWELVE_LAYERS if name == "tkd-12l-sst2" else family.SIZES
    assert list(row["students"]) == list(sizes.values())
    config = read_json(tmp_path / name / "distill" / "config.json")
    assert config["num_hidden_layers"] == (12 if name == "tkd-12l-sst2" else 3)
    smallest = list(row["students"].values())[-1]
    assert name == "tkd-12l-sst2" or smallest["megabytes"] < row["teacher"]["megabytes"]

    cards.main(["--runs-dir", str(tmp_path), "--cards-dir", str(tmp_path / "cards")])
    records = read_json(tmp_path / "cards" / "records.json")
    suffixes = cards.PUBLISHED_TWELVE_LAYERS if name == "tkd-12l-sst2" else cards.PUBLISHED
    assert set(records) == {name + suffix for suffix in suffixes.values()}
    for student, record in records.items():
        assert (tmp_path / "cards" / f"{student}.md").read_text() == cards.render(record)
        assert str(tmp_path) not in json.dumps(record)


def test_the_encoders_of_the_family_in_their_quick_size_have_three_and_two_layers(in_process, tmp_path):
    recipe = yaml.safe_load((family.RECIPES / "tkd-base.yaml").read_text())
    family.run_recipe(family.quick_recipe(recipe, tmp_path), tmp_path / "base", None, seed=0)
    for name, layers in (("pretrain", 3), ("pretrain-2", 2)):
        config = read_json(tmp_path / "base" / name / "config.json")
        assert (config["num_hidden_layers"], config["hidden_dropout_prob"]) == (layers, 0)
        assert read_json(tmp_path / "base" / name / "tkd_run.json")["metrics"]["loss"] > 0


def test_another_seed_takes_the_first_seeds_teacher_and_runs_every_other_stage():
    for name in NAMES:
        recipe = yaml.safe_load((family.RECIPES / f"{name}.yaml").read_text())
        for_second_seed = family.for_seed(recipe, 2, family.Path("runs") / name)
        assert for_second_seed["teacher"] == f"runs/{name}/finetune{'-2' if name == 'tkd-nlp-rte' else ''}"
        stages = [stage for part in recipe["stages"] for stage in part]
        assert [stage for part in for_second_seed["stages"] for stage in part] == [
            stage for stage in stages if stage not in ("finetune", "card")
        ]
        assert family.for_seed(recipe, family.FIRST_SEED, family.Path("runs") / name) == recipe


@pytest.mark.slow
def test_a_second_seed_becomes_a_row_beside_the_first(in_process, no_processes, tmp_path, monkeypatch):
    recipe = yaml.safe_load((family.RECIPES / "tkd-nlp-cola.yaml").read_text())
    stage_names = {"finetune", "label", "distill", "report"}
    recipe["stages"] = [*[stage for stage in recipe["stages"] if stage_names & {*stage}][:5], {"report": {}}]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tkd-nlp-cola.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(family, "RECIPES", tmp_path / "recipes")
    family.main(["--quick", "--recipes", "tkd-nlp-cola", "--seeds", "42", "1", "--work-dir", str(tmp_path)])
    rows = read_json(tmp_path / "results.json")["family"]
    assert [row["seed"] for row in rows] == [42, 1]
    assert rows[0]["teacher"]["value"] == rows[1]["teacher"]["value"]
    family.main(
        ["--quick", "--collect", "--work-dir", str(tmp_path / "nothing"), "--results", str(tmp_path / "results.json")]
    )
    assert read_json(tmp_path / "results.json")["family"] == rows  # rows of other machines stay


def test_rows_with_the_same_key_are_replaced(tmp_path):
    path = tmp_path / "rows.json"
    common.save_rows(
        path, [{"seed": 1, "value": 1 / 3}, {"seed": 2, "value": 2}], key=("seed",), section="runs", command="first"
    )
    common.save_rows(path, [{"seed": 2, "value": 3}], key=("seed",), section="runs", command="second")
    assert read_json(path) == {
        "commands": {"runs": "second"},
        "runs": [{"seed": 1, "value": 0.333333}, {"seed": 2, "value": 3}],
    }


def test_a_single_value_has_no_deviation():
    assert common.with_deviation([0.5], ".2%") == "50.00%"
    assert common.with_deviation([0.25, 0.75], ".2%") == "50.00% ± 35.36%"


def test_the_quick_size_neither_reuses_full_runs_nor_replaces_published_results():
    parser = common.parser_of("", "runs/pruning")
    full, quick = (common.read_options(parser, arguments) for arguments in ([], ["--quick"]))
    assert (full.work_dir, full.results) == (common.Path("runs/pruning"), common.RESULTS)
    assert (quick.work_dir, quick.results) == (common.QUICK / "pruning", common.QUICK / "pruning" / "results.json")
