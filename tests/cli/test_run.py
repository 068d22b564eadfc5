"""`tkd-hf run`: stages use the models of earlier stages, mistakes show before any work, and a killed run resumes."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tkd_hf import InputError
from tkd_hf.cli.recipe import Recipe
from tkd_hf.cli.registry import COMMANDS
from tkd_hf.cli.run import _plan

from ..factories import TEXTS, read_json, run_until_killed, write_recipe


FAST = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
}


def plan(tmp_path, stages, **content):
    """Return the values of a recipe's stages; by default the recipe has a task and an output folder."""
    recipe = Recipe.read(write_recipe(tmp_path, stages, **{"data": {"task": "sst2"}, "output_dir": "runs", **content}))
    return [stage.values for stage in _plan(recipe, COMMANDS, recipe.output_dir, {}, overwrite=False)]


def same_weights(*folders) -> bool:
    first, second = (AutoModelForSequenceClassification.from_pretrained(path).state_dict() for path in folders)
    return all(torch.equal(first[name], second[name]) for name in first | second)


STAGES = [
    {"finetune": FAST},
    {"label": None},
    {"distill": {**FAST, "layers": 2, "objectives": {"hidden": 1.0}}},
    {"distill": {**FAST, "objectives": {"logits": 1.0}}},
    {"finetune": {**FAST, "seed": 3}},
    {"evaluate": {}},
]


@pytest.fixture(scope="module")
def recipe_run(shared):
    """Run a teacher, its soft labels, a student in two distillations, fine-tuning and evaluation."""
    data = {"task": "sst2"}
    recipe = write_recipe(shared.path, STAGES, model=str(shared.teacher), data=data, output_dir="elsewhere")
    out = shared.path / "out"
    args = ["run", recipe, "--output-dir", out, "--data-dir", shared.path / "data", "--json", shared.path / "run.json"]
    printed, err = shared.run(*args)
    results = read_json(shared.path / "run.json")["stages"]
    return SimpleNamespace(args=args, out=out, printed=printed, err=err, results=results)


def files(folder: Path) -> dict[Path, int]:
    """Return when each file in a folder was changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_each_stage_of_a_recipe_is_announced_with_its_number(recipe_run):
    announced = [line for line in recipe_run.err.splitlines() if line.startswith("stage ")]
    assert [line.partition(":")[0] for line in announced] == [f"stage {number} of 6" for number in range(1, 7)]
    out = recipe_run.out
    assert announced[2].startswith(f"stage 3 of 6: distilling {out}/finetune on sst2 into {out}/distill")
    assert "next:" not in recipe_run.err


def test_a_recipe_prints_one_table_per_stage(recipe_run):
    tables_of_one_row, evaluation = 5 * 2, 3
    blank_lines = 3 + 2
    assert len(recipe_run.printed.strip().splitlines()) == tables_of_one_row + evaluation + blank_lines


def test_a_recipe_passes_each_model_to_the_next_stage(recipe_run):
    out, results = recipe_run.out, recipe_run.results
    assert [result["stage"] for result in results] == [next(iter(stage)) for stage in STAGES]
    first, second, tuned = (results[number] for number in (2, 3, 4))
    assert first["inputs"]["teacher"] == second["inputs"]["teacher"] == str(out / "finetune")
    assert second["arguments"]["student"] == str(out / "distill")
    assert tuned["inputs"]["model"] == str(out / "distill-2")
    assert [row["name"] for row in results[5]["models"]] == [str(out / "finetune"), str(out / "finetune-2")]


def test_the_options_of_a_stage_apply_to_it_alone(recipe_run):
    assert [recipe_run.results[number]["arguments"]["seed"] for number in (0, 4)] == ["42", "3"]
    student = AutoModelForSequenceClassification.from_pretrained(recipe_run.out / "finetune-2")
    assert (student.config.model_type, student.config.num_hidden_layers) == ("tkd", 2)


def test_a_finished_recipe_changes_no_file_when_it_runs_again(recipe_run, shared, caplog):
    before = files(recipe_run.out)
    shared.run(*recipe_run.args)
    assert f"{recipe_run.out}/distill-2 is already finished" in caplog.text
    assert files(recipe_run.out) == before


def test_a_recipe_with_another_seed_needs_overwrite(recipe_run, run, tmp_path):
    shutil.copytree(recipe_run.out, tmp_path / "out")
    args = [*recipe_run.args, "--output-dir", tmp_path / "out", "--json", tmp_path / "run.json", "--seed", 1]
    code, _, err = run(*args)
    expected = f"stage 1 of 6, finetune: the run in {tmp_path}/out/finetune differs: seed was '42'"
    assert (code, expected in err) == (2, True)
    assert run(*args, "--overwrite")[0] == 0
    results = read_json(tmp_path / "run.json")["stages"]
    assert {result["arguments"]["seed"] for result in results if "arguments" in result} == {"1"}
    assert results[1]["computed"] == 8


def test_stages_use_the_models_of_earlier_stages(tmp_path):
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


def test_a_report_leaves_out_students_that_were_distilled_further(tmp_path):
    again = {"distill": {"student": None, "layers": 2}}
    stages = [{"distill": {"layers": 3}}, {"distill": {}}, again, {"distill": {}}, {"prune": {}}, {"report": {}}]
    *_, report = plan(tmp_path, stages, teacher="org/teacher")
    assert report["models"] == ["org/teacher", "runs/distill-2", "runs/distill-4", "runs/prune"]


def test_prune_with_a_null_model_prunes_the_teacher(tmp_path):
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


def test_a_second_finetune_continues_with_the_teacher_of_the_first(tmp_path):
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
    assert report["models"] == ["runs/finetune-2", "runs/distill"]  # without the intermediate teacher


def test_the_teacher_named_in_a_recipe_stays_the_teacher(tmp_path):
    label, distill, tuned, evaluate = plan(
        tmp_path,
        [{"label": {}}, {"distill": {"layers": 3}}, {"finetune": {}}, {"evaluate": {}}],
        teacher={"model": "org/teacher", "revision": "v1"},
    )
    assert label["teacher"] == distill["teacher"] == evaluate["teacher"] == "org/teacher@v1"
    assert tuned["model"] == "runs/distill"
    assert evaluate["model"] == "runs/finetune"


def test_the_teacher_named_in_a_recipe_stays_even_if_it_is_fine_tuned(tmp_path):
    stages = [{"finetune": {"model": "org/teacher"}}, {"evaluate": {}}]
    _, evaluate = plan(tmp_path, stages, teacher="org/teacher")
    assert (evaluate["model"], evaluate["teacher"]) == ("runs/finetune", "org/teacher")


def test_distill_starts_from_the_pretrained_encoder(tmp_path):
    """Without a teacher and a model, the encoder is fine-tuned and becomes the teacher."""
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


def test_options_of_a_stage_win_over_the_recipe(tmp_path):
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


def test_distill_uses_the_soft_labels_file_of_the_label_stage(tmp_path):
    stages = [{"label": {"soft_labels": "f"}}, {"distill": {"layers": 3}}, {"distill": {"teacher": "org/other"}}]
    _, distill, second = plan(tmp_path, stages, teacher="org/teacher")
    assert distill["soft_labels"] == "f"
    assert "soft_labels" not in second


def test_overwrite_in_a_stage_affects_only_that_stage(tmp_path):
    first, second = plan(tmp_path, [{"label": {}}, {"distill": {"layers": 3, "overwrite": True}}], teacher="t")
    assert first["overwrite"] is False
    assert (second["overwrite"], second["resume"]) == (True, False)


@pytest.mark.parametrize(
    ("stages", "content", "message"),
    [
        ([], {}, "has no stages; choose from pretrain, finetune"),
        ([{"label": {}}, {"distil": {}}], {}, "has an unknown stage 'distil'; choose from pretrain, finetune"),
        ([{"label": {}}, {"evaluate": {"temprature": 2}}], {}, "sets temprature, but `tkd-hf evaluate` has no such"),
        ([{"label": {}}], {"data": {"tusk": "sst2"}}, "has unknown keys tusk; the keys are task, dataset, data_dir"),
        (
            [{"distill": {"layers": 3, "output_dir": "x"}}, {"finetune": {"output_dir": "x"}}],
            {},
            "has two stages with the output_dir x",
        ),
    ],
)
def test_recipes_with_bad_stages_are_refused(tmp_path, stages, content, message):
    with pytest.raises(InputError, match=message):
        plan(tmp_path, stages, **{"teacher": "org/teacher", **content})


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"run": {}}, "has an unknown stage 'run'; choose from pretrain, finetune"),
        ({"distill": {"layers": "x"}}, "stage 3 of 3, distill: --layers 'x' is neither"),
        (
            {"distill": {"student": None, "learning_rat": 1}},
            "sets learning_rat, but `tkd-hf distill` has no such option; did you mean",
        ),
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
        ({"evaluate": {"batch_size": "many"}}, "stage 3 of 3, evaluate: --batch-size 'many' is not a whole number"),
        ({"evaluate": {"dataset": "x", "task": "sst2"}}, "stage 3 of 3, evaluate: name the data by either"),
    ],
)
def test_a_mistake_in_the_last_stage_is_found_before_any_work(run, tmp_path, teacher_folder, sst2_dir, last, message):
    stages = [{"label": {}}, {"distill": {**FAST, "layers": 2}}, last]
    data, out = {"task": "sst2", "data_dir": str(sst2_dir)}, tmp_path / "out"
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data, output_dir=str(out))
    code, printed, err = run("run", recipe)
    assert code == 2
    assert message in err.strip().splitlines()[-1]
    assert not printed
    assert not out.exists()


def test_a_recipe_without_an_output_folder_is_refused(run, tmp_path, teacher_folder):
    recipe = write_recipe(tmp_path, [{"distill": {"layers": 2}}], teacher=str(teacher_folder), data={"task": "sst2"})
    code, _, err = run("run", recipe)
    assert (code, "stage 1 of 1, distill: output_dir is missing" in err) == (2, True)


def test_a_single_command_reads_its_stage_from_a_recipe(run, tmp_path, teacher_folder, sst2_dir):
    stages = [{"label": {}}, {"distill": {"layers": 2}}, {"distill": {}}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data, output_dir="unused")
    assert run("label", "--config", recipe)[0] == 0  # label has no output folder
    code, _, err = run("distill", "--config", recipe)
    assert (code, f"has 2 stages named distill; run all of them with `tkd-hf run {recipe}`" in err) == (2, True)


@pytest.mark.slow
def test_a_killed_recipe_resumes_to_the_same_student(run, tmp_path, teacher_folder, sst2_dir, caplog):
    """It is killed while it writes a checkpoint, so it resumes from the last complete one."""
    steps = {**FAST, "num_train_epochs": 4, "save_strategy": "steps", "save_steps": 2}
    stages = [{"finetune": FAST}, {"label": {}}, {"distill": {**steps, "layers": 2}}, {"finetune": FAST}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, model=str(teacher_folder), data=data)
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    assert run("run", recipe, "--output-dir", uninterrupted)[0] == 0
    assert len(list((uninterrupted / "distill").glob("checkpoint-*"))) == 2  # older checkpoints are deleted

    args = ["run", str(recipe), "--output-dir", str(resumed)]
    run_until_killed(args, "checkpoint-6", home=tmp_path / "home")
    assert read_json(resumed / "finetune" / "tkd_run.json")["finished"]
    assert not read_json(resumed / "distill" / "tkd_run.json")["finished"]
    assert not (resumed / "distill" / "checkpoint-6" / "trainer_state.json").exists()

    modified = (resumed / "finetune" / "model.safetensors").stat().st_mtime_ns
    code, _, err = run(*args)
    assert code == 0, err
    assert "resumes from checkpoint-4" in caplog.text
    assert (resumed / "finetune" / "model.safetensors").stat().st_mtime_ns == modified
    for name in ("finetune", "distill", "finetune-2"):
        assert same_weights(uninterrupted / name, resumed / name), name


def test_a_recipe_pretrains_and_distils_into_the_encoder(run, tmp_path, teacher_folder, sst2_dir):
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


def test_later_stages_learn_from_the_texts_of_augment(tmp_path):
    augmented = {"augment": {"shuffle_pairs": True}}
    values = plan(tmp_path, [augmented, {"label": None}, {"distill": None}], teacher="t")
    assert [stage.get("unlabelled") for stage in values] == [None, ["runs/augment"], ["runs/augment"]]
    assert "student" not in values[2]
