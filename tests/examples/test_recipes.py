"""The family: its recipes in their quick size, the same stages, of a step each, on data made here; and its cards."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from datasets import ClassLabel, Dataset

import augmentation
import family
import family_seeds
import family_table
import seeds
from tests.conftest import LABELS, TEXTS, build_teacher, build_tokenizer, read_json, write_task
from tkd_hf import TKDModel, student_from_teacher
from tkd_hf.data.tasks import GLUE_TASKS


ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "examples" / "recipes").glob("tkd-nlp-*.yaml"))
BASE, DEEP = (ROOT / "examples" / "recipes" / f"{name}.yaml" for name in ("tkd-base", "tkd-12l-sst2"))
CARDS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/card.json"))
TRAINING = {"max_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": "none"}
QUICK = {
    "finetune": TRAINING,
    "distill": TRAINING,
    "prune": TRAINING | {"target_speedup": None, "target_params": 0.95},  # of what takes no time to speak of
    "report": {"rounds": 1, "batch_sizes": "1", "lengths": "8"},
}


def write_corpus(folder: Path) -> dict:
    """Raw text in place of a corpus on the Hub, for an encoder of which two heads are left."""
    folder.mkdir()
    (folder / "train.txt").write_text("\n".join(8 * TEXTS))
    return TRAINING | {"dataset": str(folder), "heads": 2, "max_length": 8}


def write_bases(folder: Path) -> None:
    """What tkd-base.yaml makes: encoders of three and of two layers."""
    for name, layers in (("pretrain", 3), ("pretrain-2", 2)):
        student_from_teacher(build_teacher(layers=6), model_class=TKDModel, num_hidden_layers=layers).save_pretrained(
            folder / name
        )
        build_tokenizer().save_pretrained(folder / name)


def write_dataset(folder: Path, data: dict) -> dict:
    """A data set of one's own in place of the one that the recipe names; what the recipe is to say of it."""
    label = data.get("label_column", "label")
    rows = Dataset.from_dict({"text": TEXTS, label: LABELS}).cast_column(label, ClassLabel(names=["no", "yes"]))
    for split in ("train", data.get("eval_split", "validation")):
        rows.to_parquet(folder / f"{split}.parquet")
    return {key: value for key, value in data.items() if key != "dataset_config"} | {"dataset": str(folder)}


def quick(path: Path, folder: Path) -> dict:
    recipe = yaml.safe_load(path.read_text().replace("runs/tkd-base", str(folder / "base")))
    encoder = "teacher" if "teacher" in recipe else "model"
    write_bases(folder / "base")
    build_teacher(layers=6).save_pretrained(folder / "encoder")
    build_tokenizer().save_pretrained(folder / "encoder")
    stages = [(name, options or {}) for stage in recipe["stages"] for name, options in stage.items()]
    if "data" not in recipe:
        pass  # raw text alone
    elif "task" in recipe["data"]:
        task = recipe["data"]["task"]
        write_task(folder / "data", task)
        read = {name for _, options in stages for name in [options.get("task"), *(options.get("unlabelled") or [])]}
        for name in read & GLUE_TASKS.keys() - {task}:
            write_task(folder / "data", name, [f"a {text}" for text in TEXTS])  # which this task does not know
    else:
        recipe["data"] = write_dataset(folder / "data", recipe["data"])
    small = QUICK | {"augment": {"neighbours": str(folder / "encoder")}}
    small |= {"pretrain": write_corpus(folder / "corpus")} if "pretrain" in dict(stages) else {}
    stages = [{name: options if "no_train" in options else options | small.get(name, {})} for name, options in stages]
    return recipe | {encoder: str(folder / "encoder"), "stages": stages, "output_dir": str(folder / "runs" / path.stem)}


def executed(run, path: Path, folder: Path) -> Path:
    """Where the recipe's stages, in their quick size, left what they made."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(quick(path, folder)))
    code, _, err = run("run", folder / "recipe.yaml", "--data-dir", folder / "data")
    assert code == 0, err
    return folder / "runs" / path.stem


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
def test_a_recipe_in_its_quick_size(run, no_processes, tmp_path, path):
    pytest.importorskip("onnxruntime", reason="the recipes export to ONNX")
    made = executed(run, path, tmp_path)
    assert (made / "report" / "report.md").exists()
    layers = [read_json(made / name / "config.json")["num_hidden_layers"] for name in ("distill-2", "distill-4")]
    assert layers == [3, 2]
    card = (made / "prune-3" / "README.md").read_text()
    assert "onnx" in card.lower()
    collected(made, tmp_path)


def test_a_recipe_again_with_another_seed_and_without_further_texts(run, no_processes, tmp_path, monkeypatch):
    (path,) = (path for path in RECIPES if path.stem == "tkd-nlp-cola")
    content = quick(path, tmp_path)
    content["stages"] = [stage for stage in content["stages"] if not {"prune", "quantize", "card"} & set(stage)]
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipes" / path.name
    recipe.parent.mkdir()
    recipe.write_text(yaml.safe_dump(content))
    code, _, err = run("run", recipe, "--data-dir", "data")
    assert code == 0, err
    family_seeds.main(["--recipes-dir", "recipes", "--data-dir", "data", "--seeds", "1", "--depths", "1"])
    made = tmp_path / "runs" / path.stem
    again = {each.name for each in made.with_name(f"{made.name}-s1").iterdir()}
    assert again == {"distill", "distill-2", "augment", "report"}
    records = [
        family.record_of(read_json(run / "report" / "report.json")) for run in family.runs_of(made.parent, made.name)
    ]
    task = family.summary([record | {"minutes": 1.0} for record in records])
    assert task["teacher"]["metric"]["sd"] is None
    assert {stage: len(one["metric"]["values"]) for stage, one in task["students"].items()} == {
        "distill-2": 2,
        "distill-4": 1,
    }

    augmentation.main(["--recipes-dir", "recipes", "--data-dir", "data", "--results-dir", "."])
    (task,) = read_json(tmp_path / "augmentation.json")["tasks"].values()
    assert task["teacher"] == records[0]["teacher"]["metric"]
    more, plain = (
        read_json(made.with_name(f"{made.name}-{name}") / "distill" / "tkd_run.json") for name in ("more", "plain")
    )
    assert more["inputs"].pop("unlabelled")
    assert [plain[part] for part in ("inputs", "arguments")] == [more[part] for part in ("inputs", "arguments")]
    assert "CoLA" in (tmp_path / "augmentation.md").read_text()


def test_another_seed_starts_from_the_teacher_that_the_recipe_made():
    found = {path.stem: yaml.safe_load(path.read_text()) for path in RECIPES}
    seed = {name: family_seeds.without_teacher(recipe, seed=2, depths=1) for name, recipe in found.items()}
    assert seed["tkd-nlp-rte"]["teacher"] == "runs/tkd-nlp-rte/finetune-2"
    assert seed["tkd-nlp-sst2"]["teacher"] == "runs/tkd-nlp-sst2/finetune"
    for name, one in seed.items():
        learned = names(one)[: names(one).index("prune")]
        assert learned[:2] == ["label", "distill"]
        assert learned.count("distill") == 2
        assert names(one)[-4:] == ["quantize", "prune", "quantize", "report"]
        assert one["stages"][1]["distill"]["student"] == "runs/tkd-base/pretrain"
        assert one["output_dir"] == f"runs/{name}-s2"
    both = family_seeds.without_teacher(found["tkd-nlp-sst2"], seed=2, depths=2)
    assert names(both) == [name for name in names(found["tkd-nlp-sst2"]) if name not in ("finetune", "card")]


def names(recipe: dict) -> list[str]:
    return [name for stage in recipe["stages"] for name in stage]


@pytest.mark.slow
def test_twelve_layers_of_a_teacher_of_six_in_their_quick_size(run, no_processes, tmp_path):
    made = executed(run, DEEP, tmp_path)
    assert (made / "report" / "report.md").exists()
    config = read_json(made / "distill" / "config.json")
    assert (config["num_hidden_layers"], config["num_attention_heads"]) == (12, 2)
    cards, results = tmp_path / "cards", tmp_path / "results"
    recipes = Path(shutil.copytree(DEEP.parent, tmp_path / "recipes"))
    words = ["--recipes-dir", str(recipes), "--cards-dir", str(cards), "--results-dir", str(results)]
    family.main([*words, "--runs-dir", str(made.parent)])
    same_from_its_record(cards / DEEP.stem)
    assert "12 layers of 8 heads" in (results / "family.md").read_text()
    assert "# Expect " in (recipes / DEEP.name).read_text()


def test_the_bases_in_their_quick_size(run, tmp_path):
    made = executed(run, BASE, tmp_path)
    for name, layers in (("pretrain", 3), ("pretrain-2", 2)):
        config = read_json(made / name / "config.json")
        assert (config["num_hidden_layers"], config["hidden_dropout_prob"]) == (layers, 0)
    recorded = family.stages_of(made)
    assert list(recorded) == ["pretrain", "pretrain-2"]
    assert recorded["pretrain"]["metrics"]["loss"] > 0


def collected(made: Path, folder: Path) -> None:
    """What the recipe made is in the family's table, and its cards are made of nothing but their record."""
    cards, results = folder / "cards", folder / "results"
    recipes = Path(shutil.copytree(ROOT / "examples" / "recipes", folder / "recipes"))
    words = ["--recipes-dir", str(recipes), "--cards-dir", str(cards), "--results-dir", str(results)]
    family.main([*words, "--runs-dir", str(made.parent)])
    assert {card.name for card in cards.iterdir()} == {made.name, f"{made.name}-int8", f"{made.name}-narrow-int8"}
    for card in cards.iterdir():
        same_from_its_record(card)
        assert str(folder) not in (card / "card.json").read_text()
    (task,) = read_json(results / "family.json")["tasks"].values()
    assert [stage for stage in family.SIZES if (made / stage).exists()] == list(task["students"])
    assert task["students"]["quantize-2"]["smaller"] > 1
    assert "3 layers" in (results / "family.md").read_text()
    kept, recipe = (results / "family.json").read_text(), (recipes / f"{made.name}.yaml").read_text()
    family.main([*words, "--runs-dir", str(folder / "none")])
    assert (results / "family.json").read_text() == kept  # the record is enough, and other machines' records stay
    assert (recipes / f"{made.name}.yaml").read_text() == recipe
    assert recipe.count("# Expect ") == 1
    assert yaml.safe_load(recipe) == yaml.safe_load((ROOT / "examples" / "recipes" / f"{made.name}.yaml").read_text())


def same_from_its_record(card: Path) -> None:
    page = (card / "README.md").read_text(encoding="utf-8")
    assert family.page_of(family.load_card(card)) == page
    for picture in re.findall(r"\]\((pictures/[^)]+)\)", page):
        assert (card / picture).exists()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_of_the_family_follows_from_its_record(card):
    same_from_its_record(card)


def test_a_spread_is_of_seeds():
    assert seeds.spread([0.5]) == {"mean": 0.5, "sd": None, "values": [0.5]}
    assert seeds.spread([1.0, 3.0])["sd"] == pytest.approx(2**0.5)
    assert seeds.written({"mean": 0.5, "sd": 0.25}, ".2%") == "50.00% ± 25.00%"


def test_the_mean_of_glue_is_of_all_five():
    tasks = {name: {"students": {"distill-2": {"of_teacher": {"mean": 0.9}}}} for name in family_table.GLUE}
    tasks["tkd-nlp-cola"]["students"]["distill-2"]["of_teacher"]["mean"] = 1.2
    assert family_table.mean_of_glue(tasks) == pytest.approx(0.92)
    assert family_table.mean_of_glue({name: tasks[name] for name in list(tasks)[1:]}) is None


def test_the_standard_error_of_a_mean_over_tasks():
    """Of two tasks with deviations of 0.06 and 0.08 over 4 seeds each: √(0.03² + 0.04²) / 2."""
    spreads = [{"sd": sd, "values": [1.0] * 4} for sd in (0.06, 0.08)]
    assert family_table.standard_error(spreads) == pytest.approx(0.025)
    assert family_table.standard_error([*spreads, {"sd": None, "values": [1.0]}]) is None


def test_tasks_timed_elsewhere_are_named():
    cpus = {"sst2": "AMD", "cola": "Intel", "rte": "AMD", "mrpc": "Intel", "stsb": "AMD", "clinc150": "Arm"}
    tasks = {f"tkd-nlp-{name}": {"hardware": {"cpu": cpu}} for name, cpu in cpus.items()}
    assert family_table.machines(tasks) == "AMD, of CoLA and MRPC on Intel, of CLINC150 on Arm"
