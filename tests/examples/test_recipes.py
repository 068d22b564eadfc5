"""The recipes of the family in their quick size: the same stages, of a step each, on data made here."""

from pathlib import Path

import pytest
import yaml
from datasets import ClassLabel, Dataset

from tests.conftest import LABELS, TEXTS, build_teacher, build_tokenizer, read_json, write_task
from tkd_hf.data.tasks import GLUE_TASKS


RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))
TRAINING = {"max_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": "none"}
QUICK = {
    "finetune": TRAINING,
    "distill": TRAINING,
    "report": {"rounds": 1, "batch_sizes": "1", "lengths": "8"},
}


def write_dataset(folder: Path, data: dict) -> dict:
    """A data set of one's own in place of the one that the recipe names; what the recipe is to say of it."""
    label = data.get("label_column", "label")
    rows = Dataset.from_dict({"text": TEXTS, label: LABELS}).cast_column(label, ClassLabel(names=["no", "yes"]))
    for split in ("train", data.get("eval_split", "validation")):
        rows.to_parquet(folder / f"{split}.parquet")
    return {key: value for key, value in data.items() if key != "dataset_config"} | {"dataset": str(folder)}


def quick(path: Path, folder: Path) -> dict:
    recipe = yaml.safe_load(path.read_text())
    build_teacher(layers=6).save_pretrained(folder / "encoder")
    build_tokenizer().save_pretrained(folder / "encoder")
    stages = [(name, options or {}) for stage in recipe["stages"] for name, options in stage.items()]
    if "task" in recipe["data"]:
        for name in {recipe["data"]["task"]} | {options["task"] for _, options in stages if "task" in options}:
            write_task(folder / "data", name)
    else:
        recipe["data"] = write_dataset(folder / "data", recipe["data"])
    stages = [{name: options | QUICK.get(name, {})} for name, options in stages]
    return recipe | {"model": str(folder / "encoder"), "stages": stages, "output_dir": str(folder / "runs")}


def test_there_is_a_recipe_for_each_of_the_family():
    found = {path.stem.removeprefix("tkd-nlp-") for path in RECIPES}
    assert found == {"sst2", "mrpc", "stsb", "cola", "rte", "banking77", "clinc150", "reviews"}
    for path in RECIPES:
        recipe = yaml.safe_load(path.read_text())
        assert recipe["data"].get("task", "sst2") in GLUE_TASKS
        assert recipe["output_dir"] == f"runs/{path.stem}"
        assert f"tkd-hf run examples/recipes/{path.name}" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_in_its_quick_size(run, tmp_path, path):
    pytest.importorskip("onnxruntime", reason="the recipes export to ONNX")
    recipe = quick(path, tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = run("run", tmp_path / "recipe.yaml", "--data-dir", tmp_path / "data")
    assert code == 0, err

    made = tmp_path / "runs"
    layers = [read_json(made / name / "config.json")["num_hidden_layers"] for name in ("distill-2", "distill-4")]
    assert layers == [3, 2]
    student = "prune" if (made / "prune").exists() else "distill-4"
    card = (made / student / "README.md").read_text()
    assert "onnx" in card.lower()
    assert (made / "report" / "report.md").exists()
