"""A recipe: stages take what was made before them, mistakes show before the work, and a killed run goes on."""

import pytest
import torch
import typer
from transformers import AutoModelForSequenceClassification

from tkd_hf import InputError
from tkd_hf.cli import app
from tkd_hf.cli.recipe import Recipe
from tkd_hf.cli.run import _plan

from ..conftest import TEXTS, read_json
from .recipes import run_until_killed, write_recipe


FAST = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
}


def plan(tmp_path, stages, **content):
    """What the stages of a recipe are given: by default those of a recipe with a task and an output folder."""
    recipe = Recipe.read(write_recipe(tmp_path, stages, **{"data": {"task": "sst2"}, "output_dir": "runs", **content}))
    commands = typer.main.get_command(app).commands
    return [stage.values for stage in _plan(recipe, commands, recipe.output_dir, {}, overwrite=False)]


def same_weights(one, other) -> bool:
    first, second = (AutoModelForSequenceClassification.from_pretrained(path).state_dict() for path in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first | second)


def test_the_whole_way(run, tmp_path, teacher_folder, sst2_dir, caplog):
    """A teacher, its soft labels, a student in two distillations, fine-tuned, measured; and nothing of it twice."""
    stages = [
        {"finetune": FAST},
        {"label": None},
        {"distill": {**FAST, "layers": 2, "objectives": {"hidden": 1.0}}},
        {"distill": {**FAST, "objectives": {"logits": 1.0}}},
        {"finetune": {**FAST, "seed": 3}},
        {"evaluate": {}},
    ]
    recipe = write_recipe(tmp_path, stages, model=str(teacher_folder), data={"task": "sst2"}, output_dir="elsewhere")
    out = tmp_path / "out"
    words = ["run", recipe, "--output-dir", out, "--data-dir", sst2_dir, "--json", tmp_path / "run.json"]
    code, printed, err = run(*words)
    assert code == 0, err
    said = [line for line in err.splitlines() if line.startswith("stage ")]
    assert [line.partition(":")[0] for line in said] == [f"stage {number} of 6" for number in range(1, 7)]
    assert said[2].startswith(f"stage 3 of 6: distilling {out}/finetune on sst2 into {out}/distill")
    assert "next:" not in err
    assert len(printed.strip().splitlines()) == 5 * 2 + 3 + 3 + 2  # a table each, of the evaluation three

    results = read_json(tmp_path / "run.json")["stages"]
    assert [result["stage"] for result in results] == [next(iter(stage)) for stage in stages]
    first, second, tuned = (results[number] for number in (2, 3, 4))
    assert first["inputs"]["teacher"] == second["inputs"]["teacher"] == str(out / "finetune")
    assert second["arguments"]["student"] == str(out / "distill")
    assert tuned["inputs"]["model"] == str(out / "distill-2")
    assert tuned["arguments"]["seed"] == "3"
    assert read_json(out / "finetune-2" / "tkd_run.json")["metrics"] == tuned["metrics"]
    student = AutoModelForSequenceClassification.from_pretrained(out / "finetune-2")
    assert (student.config.model_type, student.config.num_hidden_layers) == ("tkd", 2)
    assert [row["name"] for row in results[5]["models"]] == [str(out / "finetune"), str(out / "finetune-2")]

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    code, _, err = run(*words)
    assert code == 0, err
    assert f"{out}/distill-2 is already finished" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times

    code, _, err = run(*words, "--seed", 1)
    assert (code, f"stage 1 of 6, finetune: the run in {out}/finetune differs: seed was '42'" in err) == (2, True)
    assert run(*words, "--seed", 1, "--overwrite")[0] == 0
    results = read_json(tmp_path / "run.json")["stages"]
    assert {result["arguments"]["seed"] for result in results if "arguments" in result} == {"1"}
    assert results[1]["computed"] == 8


def test_stages_take_what_was_made_before_them(tmp_path):
    finetune, distill, again, tuned, evaluate = plan(
        tmp_path,
        [{"finetune": {}}, {"distill": {"layers": 3}}, {"distill": {}}, {"finetune": {}}, {"evaluate": {}}],
        model="org/encoder",
    )
    assert (finetune["model"], finetune["output_dir"]) == ("org/encoder", "runs/finetune")
    assert (distill["teacher"], distill.get("student")) == ("runs/finetune", None)
    assert (again["teacher"], again["student"]) == ("runs/finetune", "runs/distill")
    assert (tuned["model"], tuned["output_dir"]) == ("runs/distill-2", "runs/finetune-2")
    assert (evaluate["model"], evaluate["teacher"]) == ("runs/finetune-2", "runs/finetune")


def test_of_distillations_that_go_on_with_one_another_the_last_is_reported(tmp_path):
    again = {"distill": {"student": None, "layers": 2}}
    stages = [{"distill": {"layers": 3}}, {"distill": {}}, again, {"distill": {}}, {"prune": {}}, {"report": {}}]
    *_, report = plan(tmp_path, stages, teacher="org/teacher")
    assert report["models"] == ["org/teacher", "runs/distill-2", "runs/distill-4", "runs/prune"]


def test_the_teacher_is_pruned_after_students_of_it(tmp_path):
    stages = [
        {"finetune": {}},
        {"distill": {"layers": 3}},
        {"prune": {"model": None}},
        {"quantize": {}},
        {"report": {}},
    ]
    *_, prune, quantize, report = plan(tmp_path, stages, model="org/encoder")
    assert (prune["model"], prune.get("teacher")) == ("runs/finetune", None)
    assert quantize["model"] == "runs/prune"
    assert report["models"] == ["runs/finetune", "runs/distill", "runs/prune", "runs/quantize"]


def test_a_teacher_may_learn_another_task_first(tmp_path):
    stages = [
        {"finetune": {"task": "mnli"}},
        {"finetune": {}},
        {"label": {}},
        {"distill": {"layers": 3}},
        {"report": {}},
    ]
    first, second, label, distill, report = plan(tmp_path, stages, model="org/encoder", data={"task": "rte"})
    assert (first["task"], second["task"], second["model"]) == ("mnli", "rte", "runs/finetune")
    assert label["teacher"] == distill["teacher"] == report["teacher"] == "runs/finetune-2"
    assert "student" not in distill
    assert report["models"] == ["runs/finetune-2", "runs/distill"]  # not the model in between


def test_the_teacher_of_a_recipe_stays_the_teacher(tmp_path):
    label, distill, tuned, evaluate = plan(
        tmp_path,
        [{"label": {}}, {"distill": {"layers": 3}}, {"finetune": {}}, {"evaluate": {}}],
        teacher={"model": "org/teacher", "revision": "v1"},
    )
    assert label["teacher"] == distill["teacher"] == evaluate["teacher"] == "org/teacher@v1"
    assert tuned["model"] == "runs/distill"
    assert evaluate["model"] == "runs/finetune"


def test_the_teacher_that_a_recipe_names_stays_the_teacher_even_where_it_is_fine_tuned(tmp_path):
    stages = [{"finetune": {"model": "org/teacher"}}, {"evaluate": {}}]
    _, evaluate = plan(tmp_path, stages, teacher="org/teacher")
    assert (evaluate["model"], evaluate["teacher"]) == ("runs/finetune", "org/teacher")


def test_a_pretrained_base_is_what_distill_starts_from(tmp_path):
    """With a teacher it learns from it, too; without one, it becomes the teacher, unless the recipe names a model."""
    stages = [{"pretrain": {"dataset": "text"}}, {"distill": {}}]
    base, distill = plan(tmp_path, stages, teacher="org/teacher", data={"task": "sst2", "max_length": 64})
    assert (base["teacher"], base["dataset"], base["output_dir"]) == ("org/teacher", "text", "runs/pretrain")
    assert not {"task", "max_length"} & set(base)
    assert (distill["student"], distill["max_length"]) == ("runs/pretrain", 64)

    stages = [{"pretrain": {"dataset": "text"}}, {"finetune": {}}, {"distill": {"layers": 3}}]
    base, finetune, distill = plan(tmp_path, stages)
    assert "teacher" not in base
    assert finetune["model"] == "runs/pretrain"
    assert (distill["teacher"], distill.get("student")) == ("runs/finetune", None)
    stages = [{"pretrain": {"dataset": "text"}}, {"finetune": {}}, {"evaluate": {}}, {"distill": {}}]
    _, finetune, evaluate, distill = plan(tmp_path, stages, model="org/encoder")
    assert (finetune["model"], evaluate["model"]) == ("org/encoder", "runs/finetune")
    assert (distill["teacher"], distill["student"]) == ("runs/finetune", "runs/pretrain")


def test_a_model_is_not_compared_with_itself(tmp_path):
    _, evaluate = plan(tmp_path, [{"finetune": {}}, {"evaluate": {}}], model="org/encoder")
    assert evaluate["model"] == "runs/finetune"
    assert "teacher" not in evaluate


def test_what_a_stage_says_itself_wins(tmp_path):
    stages = [
        {"distill": {"layers": 3, "output-dir": "elsewhere/a"}},
        {"distill": {"layers": 2, "student": None, "teacher": "org/larger"}},
        {"finetune": {"model": "org/plain", "task": "rte"}},
        {"evaluate": {"model": "org/other", "teacher": None}},
    ]
    data = {"task": "sst2", "data_dir": "copies", "max_length": 64}
    first, second, tuned, evaluate = plan(tmp_path, stages, teacher="org/teacher", data=data)
    assert first["output_dir"] == "elsewhere/a"
    assert (second["teacher"], second["output_dir"], second.get("student")) == ("org/larger", "runs/distill-2", None)
    assert (tuned["model"], tuned["task"], tuned["data_dir"]) == ("org/plain", "rte", "copies")
    assert "max_length" not in tuned  # it belongs to the recipe's task
    assert (evaluate["model"], evaluate["task"], "teacher" in evaluate) == ("org/other", "sst2", False)


def test_soft_labels_are_those_that_the_stage_before_wrote(tmp_path):
    stages = [{"label": {"soft_labels": "f"}}, {"distill": {"layers": 3}}, {"distill": {"teacher": "org/other"}}]
    _, distill, other = plan(tmp_path, stages, teacher="org/teacher")
    assert distill["soft_labels"] == "f"
    assert "soft_labels" not in other


def test_overwriting_one_stage(tmp_path):
    first, second = plan(tmp_path, [{"label": {}}, {"distill": {"layers": 3, "overwrite": True}}], teacher="t")
    assert first["overwrite"] is False
    assert (second["overwrite"], second["resume"]) == (True, False)


@pytest.mark.parametrize(
    ("stages", "content", "message"),
    [
        ([], {}, "has no stages; choose from pretrain, finetune"),
        ([{"label": {}}, {"distil": {}}], {}, "has an unknown stage 'distil'; choose from pretrain, finetune"),
        ([{"label": {}}, {"evaluate": {"temprature": 2}}], {}, "sets temprature, which `tkd-hf evaluate` does not"),
        ([{"label": {}}], {"data": {"tusk": "sst2"}}, "has unknown keys tusk; the keys are task, dataset, data_dir"),
        (
            [{"distill": {"layers": 3, "output_dir": "x"}}, {"finetune": {"output_dir": "x"}}],
            {},
            "has two stages with the output_dir x",
        ),
    ],
)
def test_recipes_that_cannot_be_planned(tmp_path, stages, content, message):
    with pytest.raises(InputError, match=message):
        plan(tmp_path, stages, **{"teacher": "org/teacher", **content})


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"run": {}}, "has an unknown stage 'run'; choose from pretrain, finetune"),
        ({"distill": {"layers": "x"}}, "stage 3 of 3, distill: --layers 'x' is neither"),
        ({"distill": {"student": None, "learning_rat": 1}}, "stage 3 of 3, distill: unknown option '--learning_rat'"),
        (
            {"distill": {"layers": 1}},
            "distill' already has a shape, but {'layers': 1} is for a student that is cut out of the",
        ),
        ({"distill": {"teacher": "no/such"}}, "'no/such' is neither a folder with a loadable tokenizer"),
        (
            {"distill": {"teacher": None}},
            "stage 3 of 3, distill: teacher is missing; set it in the stage, or at the top",
        ),
        ({"evaluate": {"task": "sst3"}}, "unknown task 'sst3'"),
        ({"evaluate": {"batch_size": "many"}}, "stage 3 of 3, evaluate: Invalid value for '--batch-size'"),
        ({"evaluate": {"dataset": "x", "task": "sst2"}}, "stage 3 of 3, evaluate: name the data by either"),
    ],
)
def test_a_mistake_in_the_last_stage_costs_nothing(run, tmp_path, teacher_folder, sst2_dir, last, message):
    stages = [{"label": {}}, {"distill": {**FAST, "layers": 2}}, last]
    data, out = {"task": "sst2", "data_dir": str(sst2_dir)}, tmp_path / "out"
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data, output_dir=str(out))
    code, printed, err = run("run", recipe)
    assert code == 2
    assert message in err.strip().splitlines()[-1]
    assert not printed
    assert not out.exists()


def test_a_recipe_without_an_output_folder(run, tmp_path, teacher_folder):
    recipe = write_recipe(tmp_path, [{"distill": {"layers": 2}}], teacher=str(teacher_folder), data={"task": "sst2"})
    code, _, err = run("run", recipe)
    assert (code, "stage 1 of 1, distill: output_dir is missing" in err) == (2, True)


def test_one_command_takes_its_stage_of_a_recipe(run, tmp_path, teacher_folder, sst2_dir):
    stages = [{"label": {}}, {"distill": {"layers": 2}}, {"distill": {}}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data, output_dir="unused")
    assert run("label", "--config", recipe)[0] == 0  # has no use for an output folder
    code, _, err = run("distill", "--config", recipe)
    assert (code, f"has 2 stages named distill; run all of them with `tkd-hf run {recipe}`" in err) == (2, True)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_student(run, tmp_path, teacher_folder, sst2_dir, caplog):
    """Killed while it writes a checkpoint: the last whole one counts."""
    steps = {**FAST, "num_train_epochs": 4, "save_strategy": "steps", "save_steps": 2}
    stages = [{"finetune": FAST}, {"label": {}}, {"distill": {**steps, "layers": 2}}, {"finetune": FAST}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, model=str(teacher_folder), data=data)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run("run", recipe, "--output-dir", whole)[0] == 0
    assert len(list((whole / "distill").glob("checkpoint-*"))) == 2  # of more: a disk is soon full

    words = ["run", str(recipe), "--output-dir", str(parts)]
    run_until_killed(words, "checkpoint-6", home=tmp_path / "home")
    assert read_json(parts / "finetune" / "tkd_run.json")["finished"]
    assert not read_json(parts / "distill" / "tkd_run.json")["finished"]
    assert not (parts / "distill" / "checkpoint-6" / "trainer_state.json").exists()

    tuned = (parts / "finetune" / "model.safetensors").stat().st_mtime_ns
    code, _, err = run(*words)
    assert code == 0, err
    assert "resumes from checkpoint-4" in caplog.text
    assert (parts / "finetune" / "model.safetensors").stat().st_mtime_ns == tuned
    for name in ("finetune", "distill", "finetune-2"):
        assert same_weights(whole / name, parts / name), name


def test_a_pretrained_base_is_what_the_student_starts_from(run, tmp_path, teacher_folder, sst2_dir):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 20))
    corpus = {"dataset": str(tmp_path / "text.txt"), "max_length": 16, "layers": 2, "max_steps": 2}
    stages = [{"pretrain": {**FAST, **corpus}}, {"distill": FAST}, {"evaluate": None}]
    content = {"teacher": str(teacher_folder), "data": {"task": "sst2", "data_dir": str(sst2_dir)}}
    recipe = write_recipe(tmp_path, stages, output_dir=str(tmp_path / "out"), **content)
    code, out, err = run("run", recipe)
    assert code == 0, err
    record = read_json(tmp_path / "out" / "distill" / "tkd_run.json")
    assert record["arguments"]["student"] == str(tmp_path / "out" / "pretrain")
    assert "agreement" in out


def test_what_augment_made_is_learned_from(tmp_path):
    augmented = {"augment": {"shuffle_pairs": True}}
    values = plan(tmp_path, [augmented, {"label": None}, {"distill": None}], teacher="t")
    assert [stage.get("unlabelled") for stage in values] == [None, ["runs/augment"], ["runs/augment"]]
    assert "student" not in values[2]
