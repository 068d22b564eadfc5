"""The command line: the main workflow, resuming, recipes as options, help, and one clear line for bad input."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

import tkd_hf
from tkd_hf import DistillationTrainer
from tkd_hf.cli import _command as make_command
from tkd_hf.cli import app

from ..factories import FAST, read_json


COMMANDS = app.commands


@pytest.fixture(scope="module")
def workflow(shared):
    """Fine-tune a teacher, label twice, distil and evaluate; return what the commands printed and wrote."""

    def run(command, *args):
        file = shared.path / "result.json"
        out, err = shared.run(command, *args, *shared.data, "--json", file)
        return SimpleNamespace(out=out, err=err, content=read_json(file))

    teacher, student = shared.path / "tuned", shared.path / "student"
    finetune = run("finetune", shared.teacher, "--output-dir", teacher, *FAST.split())
    labels = [run("label", teacher) for _ in range(2)]
    distill = run("distill", teacher, "--layers", 2, "--output-dir", student, *FAST.split())
    evaluate = run("evaluate", student, "--teacher", teacher)
    return SimpleNamespace(
        teacher=teacher, student=student, finetune=finetune, labels=labels, distill=distill, evaluate=evaluate
    )


def test_finetune_shows_the_metric_of_the_task(workflow):
    assert "accuracy" in workflow.finetune.out


def test_label_computes_each_soft_label_once(workflow):
    assert [label.content["computed"] for label in workflow.labels] == [8, 0]


def test_distill_announces_its_work_and_shows_its_duration(workflow):
    assert "distilling" in workflow.distill.err.splitlines()[0]
    assert "seconds" in workflow.distill.out


def test_distill_records_the_metrics_and_the_loss_of_each_objective(workflow):
    record = workflow.distill.content
    assert record == read_json(workflow.student / "tkd_run.json")
    assert {"accuracy", "loss", "loss_logits", "loss_hard"} <= set(record["metrics"])


def test_distill_writes_a_student_that_loads_with_its_source_files(workflow):
    assert {"configuration_tkd.py", "layers_tkd.py", "modeling_tkd.py", "tokenizer.json"} <= {
        path.name for path in workflow.student.iterdir()
    }
    config = AutoModelForSequenceClassification.from_pretrained(workflow.student).config
    assert (config.num_hidden_layers, config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (2, 0, 0)


def test_evaluate_compares_the_student_with_its_teacher(workflow):
    assert "agreement" in workflow.evaluate.out
    teacher, student = workflow.evaluate.content["models"]
    assert [teacher["name"], student["name"]] == [str(workflow.teacher), str(workflow.student)]
    assert teacher["parameters"]["encoder"] > student["parameters"]["encoder"]
    assert student["metrics"]["accuracy"] == workflow.distill.content["metrics"]["accuracy"]
    assert 0 <= student["fidelity"]["agreement"] <= 1


def test_results_are_printed_as_a_table_and_written_as_json(run, tmp_path, teacher_folder, sst2_dir):
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    code, out, _ = run("evaluate", teacher_folder, *data, "--json", tmp_path / "e.json")
    assert code == 0
    assert len(out.strip().splitlines()) == 2
    content = read_json(tmp_path / "e.json")
    assert {"task", "split", "examples", "models", "software", "hardware"} == set(content)


@pytest.mark.slow
def test_training_prints_progress_and_losses_on_standard_error(teacher_folder, sst2_dir, tmp_path):
    """It needs a new process: the log level when transformers is imported decides whether there is a progress bar."""
    program = "from tkd_hf_command import main; main()"
    args = ["finetune", teacher_folder, "--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args), *FAST.split(), "--logging-steps", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "{'loss': " in done.stderr
    assert "2/2 [" in done.stderr
    assert "loss': " not in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_what_it_does(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    first_line = COMMANDS[name].help.splitlines()[0]
    assert first_line.partition("`")[0] in " ".join(out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_option_is_a_phrase_with_its_default(name):
    options = COMMANDS[name].options()
    assert options
    for option in options:
        assert option.help[0].isupper(), option.name
        assert option.help.endswith("."), option.name
        assert re.search(r" \(.+\)\.( |$)", option.description), option.name


def test_a_run_is_resumed_or_overwritten_only_on_request(run, tmp_path, teacher_folder, sst2_dir):
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--layers", 1, "--output-dir", tmp_path / "s", *FAST.split()]
    assert run("distill", teacher_folder, *args)[0] == 0
    before = read_json(tmp_path / "s" / "tkd_run.json")
    code, _, err = run("distill", teacher_folder, *args)
    assert code == 2
    assert "--resume" in err
    assert run("distill", teacher_folder, *args, "--resume")[0] == 0
    assert read_json(tmp_path / "s" / "tkd_run.json") == before
    code, _, err = run("distill", teacher_folder, *args, "--resume", "--seed", 1)
    assert (code, "seed was '42', now '1'" in err) == (2, True)
    assert run("distill", teacher_folder, *args, "--overwrite", "--seed", 1)[0] == 0
    assert read_json(tmp_path / "s" / "tkd_run.json")["arguments"]["seed"] == "1"


def test_an_interrupted_run_resumes_to_the_same_student(run, tmp_path, teacher_folder, sst2_dir, monkeypatch):
    args = [
        "--task",
        "sst2",
        "--data-dir",
        sst2_dir,
        "--layers",
        2,
        *FAST.replace("strategy no", "strategy steps").split(),
    ]
    args += ["--save-steps", 1, "--num-train-epochs", 3]
    assert run("distill", teacher_folder, *args, "--output-dir", tmp_path / "uninterrupted")[0] == 0

    class Crash(Exception):
        pass

    step = DistillationTrainer.training_step

    def crash(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise Crash
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "training_step", crash)
        with pytest.raises(Crash):
            run("distill", teacher_folder, *args, "--output-dir", tmp_path / "resumed")
    assert run("distill", teacher_folder, *args, "--output-dir", tmp_path / "resumed", "--resume")[0] == 0
    uninterrupted, resumed = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("uninterrupted", "resumed")
    )
    for name, tensor in uninterrupted.state_dict().items():
        torch.testing.assert_close(tensor, resumed.state_dict()[name], atol=0, rtol=0)


def test_a_refused_run_leaves_no_folder(run, tmp_path, teacher_folder, sst2_dir):
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "out", "--layers", 9]
    assert run("distill", teacher_folder, *args)[0] == 2
    assert not (tmp_path / "out").exists()


def test_flags_override_the_recipe_and_the_recipe_the_defaults(run, tmp_path, teacher_folder, sst2_dir):
    recipe = {
        "teacher": {"model": str(teacher_folder)},
        "data": {"task": "sst2", "data_dir": str(sst2_dir), "max-length": 16},
        "stages": [
            {"label": {}},
            {"distill": {"layers": 2, "temperature": 3.0, "objectives": {"logits": 1.0}, "learning_rate": 2e-4}},
        ],
        "output_dir": str(tmp_path / "from recipe"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    args = ["--config", tmp_path / "recipe.yaml", "--temperature", 4, *FAST.split()]
    assert run("distill", *args)[0] == 0
    arguments = read_json(tmp_path / "from recipe" / "tkd_run.json")["arguments"]
    assert arguments["temperature"] == "4.0"
    assert arguments["objectives"] == {"logits": 1.0}
    assert arguments["learning_rate"] == "0.0002"
    assert (arguments["layers"], arguments["max_length"]) == (2, 16)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("teacher: [", "recipe.yaml cannot be read"),
        ("just words", "recipe.yaml holds str, not the keys of a recipe"),
        ("tescher: x", "unknown keys tescher; the keys are teacher"),
        ("teacher: {name: x}", "has a teacher with the keys name; the keys are model and revision"),
        ("teacher: {model: no/such, revision: v1}\ndata: {task: sst2}", "'no/such@v1' is neither a folder"),
        ("teacher: [x, y]", "has the teacher ['x', 'y']; write its folder or Hub id"),
        ("data: sst2", "has the data 'sst2'; write them as"),
        ("data: {tusk: sst2}", "has unknown keys tusk; the keys are task, dataset"),
        ("stages: {distill: {}}", "has the stages {'distill': {}}; write them as a list"),
        ("stages: [distill]", "has the stage 'distill'; write it as"),
        ("stages: [distill: 3]", "has the stage {'distill': 3}; write it as"),
        (
            "data: {task: sst2}\nstages: [{label: {temprature: 2}}]",
            "sets temprature, but `tkd-hf label` has no such option",
        ),
        (None, "recipe.yaml cannot be read"),
    ],
)
def test_bad_recipes_are_refused(run, tmp_path, recipe, message):
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
    code, _, err = run("label", "--config", tmp_path / "recipe.yaml")
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("label {teacher} --task sst3 --data-dir {data}", "unknown task 'sst3'; the tasks are cola, sst2"),
        ("label {teacher} --task cola --data-dir {data}", "no split 'train' in"),
        ("label {teacher} --task sst2", "'nyu-mll/glue' is neither a local path nor can it be fetched"),
        ("label {teacher} --dataset no/such", "'no/such' is neither a local path nor can it be fetched"),
        ("label {teacher}", "name the data with --task or --dataset"),
        ("label {teacher} --dataset {data}/sst2 --text-column body", "missing column 'body'"),
        ("label no/such --task sst2 --data-dir {data}", "'no/such' is neither a folder with a loadable tokenizer nor"),
        ("label {data} --task sst2 --data-dir {data}", "data' is neither a folder with a loadable tokenizer"),
        (
            "evaluate {teacher} --task sst2 --data-dir {data} --label-names no,yes",
            "['negative', 'positive'], are not those",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --layers 9",
            "9 for a teacher of 4 layers",
        ),
        ("distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --layers x", "--layers 'x' is neither"),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --layers 2 --student {teacher}",
            "already has a shape, but {'layers': 2} is for a student that is cut out",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --dropout 1",
            "dropout=1.0 must be at least 0 and below 1",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --temperature 0",
            "temperature=0.0 must be",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --objectives {{x",
            "'{x' is not JSON",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --objectives x",
            "objectives='x' are not weights by name",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --learning-rat 1",
            "unknown option '--learning-rat'; did you mean --learning-rate?",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --learning-rate x",
            "invalid float value: 'x'",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {data}",
            "is itself read by this command; name another",
        ),
        ("distill {teacher} --task sst2 --data-dir {data} --output-dir {files}", "already holds files; add --resume"),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {files} --overwrite",
            "no tkd_run.json, so it is not a run",
        ),
        ("evaluate {teacher} --task sst2 --data-dir {data} --json {data}/no/such.json", "cannot write"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(run, tmp_path, teacher_folder, sst2_dir, args, message):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.tex").touch()
    folders = {"teacher": teacher_folder, "data": sst2_dir, "out": tmp_path / "out", "files": tmp_path / "files"}
    code, _, err = run(*(word.format(**folders) for word in args.split()))
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("tkd-hf: ")
    assert message in last
    assert "Traceback" not in err
    assert (sst2_dir / "sst2" / "train.parquet").exists()
    assert (tmp_path / "files" / "thesis.tex").exists()


def test_a_command_is_a_function_its_options_and_one_entry(run, extension, monkeypatch, tmp_path):
    """The command of docs/extending.md, as if it stood in `COMMANDS`."""
    page = extension("Add a command")
    monkeypatch.setattr(tkd_hf, "greet", page.greet, raising=False)
    monkeypatch.setitem(app.commands, "greet", make_command(page.GREET))
    code, out, err = run("greet", "Ada", "--times", 2, "--json", tmp_path / "greeting.json")
    assert (code, out.strip()) == (0, "hello, hello Ada")
    assert err.splitlines() == ["greeting Ada", "next: tkd-hf greet Ada --times 3"]
    assert read_json(tmp_path / "greeting.json") == vars(page.greet("Ada", times=2))
    assert run("greet", "Ada", "--times", 0)[0] == 2
    _, out, _ = run("greet", "--help")
    assert "Number of greetings (1)." in out
