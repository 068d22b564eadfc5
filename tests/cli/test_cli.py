"""The commands as a user types them: the way through, and one clear line for whatever is wrong."""

import json
import subprocess
import sys

import pytest
import yaml
from transformers import AutoModelForSequenceClassification

from ..conftest import FAST, build_teacher, build_tokenizer, read_json


def test_from_teacher_to_evaluation(run, tmp_path, teacher_folder, sst2_dir):
    """finetune, label, distill, evaluate on one task: each leaves what the next one takes."""
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    teacher, student = tmp_path / "tuned", tmp_path / "student"

    code, out, _ = run("finetune", teacher_folder, *data, "--output-dir", teacher, *FAST.split())
    assert code == 0
    assert "accuracy" in out

    code, out, _ = run("label", teacher, *data, "--json", tmp_path / "label.json")
    assert code == 0
    assert read_json(tmp_path / "label.json")["computed"] == 8
    code, out, _ = run("label", teacher, *data, "--json", tmp_path / "label.json")
    assert read_json(tmp_path / "label.json")["computed"] == 0

    code, out, err = run(
        "distill", teacher, *data, "--layers", 2, "--output-dir", student, "--json", tmp_path / "d.json", *FAST.split()
    )
    assert code == 0
    assert "distilling" in err.splitlines()[0]
    assert "seconds" in out
    record = read_json(tmp_path / "d.json")
    assert record == read_json(student / "tkd_run.json")
    assert {"accuracy", "loss", "loss_logits", "loss_hard"} <= set(record["metrics"])
    assert {"configuration_tkd.py", "layers_tkd.py", "modeling_tkd.py", "tokenizer.json"} <= {
        path.name for path in student.iterdir()
    }
    config = AutoModelForSequenceClassification.from_pretrained(student).config
    assert (config.num_hidden_layers, config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (2, 0, 0)

    code, out, _ = run("evaluate", student, "--teacher", teacher, *data, "--json", tmp_path / "e.json")
    assert code == 0
    assert "agreement" in out
    rows = read_json(tmp_path / "e.json")["models"]
    assert [row["name"] for row in rows] == [str(teacher), str(student)]
    assert rows[0]["parameters"]["encoder"] > rows[1]["parameters"]["encoder"]
    assert rows[1]["metrics"]["accuracy"] == record["metrics"]["accuracy"]
    assert 0 <= rows[1]["fidelity"]["agreement"] <= 1


def test_regression_and_pairs(run, tmp_path, tokenizer):
    from datasets import Dataset

    from ..conftest import TEXTS, build_teacher

    build_teacher((), problem_type="regression").save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    rows = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "label": [i / 2 for i in range(8)], "idx": list(range(8))}
    (tmp_path / "stsb").mkdir()
    for split in ("train", "validation"):
        Dataset.from_dict(rows).to_parquet(tmp_path / "stsb" / f"{split}.parquet")
    data = ["--task", "stsb", "--data-dir", tmp_path]
    out_dir = tmp_path / "student"
    shape = ["--layers", "1,3", "--heads", 1, "--intermediate-size", 8, "--dropout", 0.2]
    assert run("distill", tmp_path / "teacher", *data, *shape, "--output-dir", out_dir, "--live", *FAST.split())[0] == 0
    config = read_json(out_dir / "config.json")
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    assert [config[name] for name in dropouts] == [0.2, 0.2, 0.2]
    assert {"pearson", "spearman"} <= set(read_json(out_dir / "tkd_run.json")["metrics"])
    code, out, _ = run("evaluate", out_dir, "--teacher", tmp_path / "teacher", *data)
    assert code == 0
    assert "pearson" in out


def test_a_run_is_resumed_or_overwritten_only_when_told(run, tmp_path, teacher_folder, sst2_dir):
    words = ["--task", "sst2", "--data-dir", sst2_dir, "--layers", 1, "--output-dir", tmp_path / "s", *FAST.split()]
    assert run("distill", teacher_folder, *words)[0] == 0
    before = read_json(tmp_path / "s" / "tkd_run.json")
    code, _, err = run("distill", teacher_folder, *words)
    assert code == 2
    assert "--resume" in err
    assert run("distill", teacher_folder, *words, "--resume")[0] == 0
    assert read_json(tmp_path / "s" / "tkd_run.json") == before
    code, _, err = run("distill", teacher_folder, *words, "--resume", "--seed", 1)
    assert (code, "seed was '42', now '1'" in err) == (2, True)
    assert run("distill", teacher_folder, *words, "--overwrite", "--seed", 1)[0] == 0
    assert read_json(tmp_path / "s" / "tkd_run.json")["arguments"]["seed"] == "1"


def test_an_interrupted_run_resumes_to_the_same_student(run, tmp_path, teacher_folder, sst2_dir, monkeypatch):
    import torch

    from tkd_hf import DistillationTrainer

    words = [
        "--task",
        "sst2",
        "--data-dir",
        sst2_dir,
        "--layers",
        2,
        *FAST.replace("strategy no", "strategy steps").split(),
    ]
    words += ["--save-steps", 1, "--num-train-epochs", 3]
    assert run("distill", teacher_folder, *words, "--output-dir", tmp_path / "whole")[0] == 0

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
            run("distill", teacher_folder, *words, "--output-dir", tmp_path / "parts")
    assert run("distill", teacher_folder, *words, "--output-dir", tmp_path / "parts", "--resume")[0] == 0
    whole, parts = (AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("whole", "parts"))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(tensor, parts.state_dict()[name], atol=0, rtol=0)


def test_flags_win_over_the_recipe_and_it_over_defaults(run, tmp_path, teacher_folder, sst2_dir):
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
    words = ["--config", tmp_path / "recipe.yaml", "--temperature", 4, *FAST.split()]
    assert run("distill", *words)[0] == 0
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
def test_bad_recipes(run, tmp_path, recipe, message):
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
    code, _, err = run("label", "--config", tmp_path / "recipe.yaml")
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("label {teacher} --task sst3 --data-dir {data}", "unknown task 'sst3'; the tasks are cola, sst2"),
        ("label {teacher} --task cola --data-dir {data}", "no split 'train' in"),
        ("label {teacher} --task sst2", "'nyu-mll/glue' is neither a local path nor can it be fetched"),
        ("label {teacher} --dataset no/such", "'no/such' is neither a local path nor can it be fetched"),
        ("label {teacher}", "name the data by either --task or --dataset"),
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
            "unknown option '--learning-rat'",
        ),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {out} --learning-rate x",
            "invalid float value: 'x'",
        ),
        ("distill {teacher} --task sst2 --data-dir {data} --output-dir {data}", "already holds files; add --resume"),
        (
            "distill {teacher} --task sst2 --data-dir {data} --output-dir {data} --overwrite",
            "no tkd_run.json, so it is not a run",
        ),
        ("evaluate {teacher} --task sst2 --data-dir {data} --json {data}/no/such.json", "cannot write"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(run, tmp_path, teacher_folder, sst2_dir, words, message):
    filled = [word.format(teacher=teacher_folder, data=sst2_dir, out=tmp_path / "out") for word in words.split()]
    code, _, err = run(*filled)
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("tkd-hf: ")
    assert message in last
    assert "Traceback" not in err
    assert (sst2_dir / "sst2" / "train.parquet").exists()


def test_an_encoder_without_a_classifier_is_no_teacher(run, tmp_path, teacher, tokenizer, sst2_dir):
    teacher.bert.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    for command in (["label"], ["evaluate"], ["distill", "--output-dir", tmp_path / "s", "--live"]):
        code, _, err = run(command[0], tmp_path / "encoder", *data, *command[1:])
        assert (code, "not a trained classifier (classifier.bias, classifier.weight are missing)" in err) == (
            2,
            True,
        )
    assert run("finetune", tmp_path / "encoder", *data, "--output-dir", tmp_path / "t", *FAST.split())[0] == 0


def test_a_classifier_of_another_task_gets_a_new_head(run, tmp_path, tokenizer, sst2_dir):
    from ..conftest import build_teacher

    build_teacher(("a", "b", "c")).save_pretrained(tmp_path / "three")
    tokenizer.save_pretrained(tmp_path / "three")
    words = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "t", *FAST.split()]
    assert run("finetune", tmp_path / "three", *words)[0] == 0
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "t").config
    assert config.id2label == {0: "negative", 1: "positive"}


def test_a_student_is_fine_tuned_further(run, tmp_path, teacher, tokenizer, sst2_dir):
    """Its classifier stays, and a student that has changed since is another run."""
    import torch

    from tkd_hf.student import student_from_teacher

    def save(layers):
        student = student_from_teacher(teacher, layers=layers)
        student.save_pretrained(tmp_path / "student")
        tokenizer.save_pretrained(tmp_path / "student")
        return student

    student = save([1, 3])
    words = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "tuned", *FAST.split()]
    assert run("finetune", tmp_path / "student", *words, "--learning-rate", "1e-9")[0] == 0
    tuned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    assert type(tuned) is type(student)
    torch.testing.assert_close(tuned.state_dict(), student.state_dict(), atol=1e-6, rtol=0)
    assert (tmp_path / "tuned" / "modeling_tkd.py").exists()
    save([0, 3])
    code, _, err = run("finetune", tmp_path / "student", *words, "--learning-rate", "1e-9", "--resume")
    assert (code, "differs: model_revision was" in err) == (2, True)


def test_a_student_with_a_tokenizer_of_its_own(run, tmp_path, teacher_folder, sst2_dir):
    from ..conftest import WORDS, build_teacher, build_tokenizer

    build_teacher(seed=5).save_pretrained(tmp_path / "small")
    build_tokenizer(WORDS[:5] + WORDS[:4:-1]).save_pretrained(tmp_path / "small")
    losses = {}
    for name in ("cached", "live"):
        words = ["--task", "sst2", "--data-dir", sst2_dir, "--student", tmp_path / "small", *FAST.split()]
        words += ["--live"] if name == "live" else []
        assert run("distill", teacher_folder, *words, "--output-dir", tmp_path / name)[0] == 0
        losses[name] = read_json(tmp_path / name / "tkd_run.json")["metrics"]["loss_logits"]
    assert losses["cached"] == pytest.approx(losses["live"], abs=1e-4)


def test_a_student_whose_classes_stand_in_another_order(run, tmp_path, teacher_folder, tokenizer, sst2_dir):
    """The same classifier with its rows swapped is the same student: same loss, and labels still mean what they say."""
    from ..conftest import build_teacher

    student = build_teacher(seed=5)
    student.save_pretrained(tmp_path / "straight")
    swapped = build_teacher(("POSITIVE", "NEGATIVE"), seed=5)
    swapped.load_state_dict(student.state_dict())
    for tensor in swapped.classifier.parameters():
        tensor.data = tensor.data.flip(0)
    swapped.save_pretrained(tmp_path / "swapped")
    losses = {}
    for name in ("straight", "swapped"):
        tokenizer.save_pretrained(tmp_path / name)
        words = ["--task", "sst2", "--data-dir", sst2_dir, "--student", tmp_path / name, *FAST.split()]
        words += ["--output-dir", tmp_path / f"{name} out", "--learning-rate", "1e-9"]
        assert run("distill", teacher_folder, *words)[0] == 0
        losses[name] = read_json(tmp_path / f"{name} out" / "tkd_run.json")["metrics"]["loss"]
        config = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"{name} out").config
        assert config.id2label == {0: "negative", 1: "positive"}
    assert losses["straight"] == pytest.approx(losses["swapped"], abs=1e-4)


def test_a_failed_start_does_not_leave_a_folder(run, tmp_path, teacher_folder, sst2_dir):
    words = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "out", "--layers", 9]
    assert run("distill", teacher_folder, *words)[0] == 2
    assert not (tmp_path / "out").exists()


def test_damaged_soft_labels_are_refused(run, tmp_path, teacher_folder, sst2_dir):
    (tmp_path / "soft.safetensors").write_bytes(b"damaged")
    words = ["--task", "sst2", "--data-dir", sst2_dir, "--soft-labels", tmp_path / "soft.safetensors"]
    code, _, err = run("label", teacher_folder, *words)
    assert (code, "soft.safetensors are damaged" in err) == (2, True)
    assert (tmp_path / "soft.safetensors").read_bytes() == b"damaged"
    assert run("label", teacher_folder, *words, "--overwrite")[0] == 0


def test_soft_labels_of_another_teacher_are_refused(run, tmp_path, teacher_folder, sst2_dir, tokenizer):
    from ..conftest import build_teacher

    words = ["--task", "sst2", "--data-dir", sst2_dir, "--soft-labels", tmp_path / "soft.safetensors"]
    assert run("label", teacher_folder, *words)[0] == 0
    build_teacher(seed=1).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    code, _, err = run("distill", tmp_path / "other", *words, "--output-dir", tmp_path / "s", *FAST.split())
    assert (code, "but the teacher is of revision" in err) == (2, True)


def test_results_are_json_for_machines_and_a_table_for_people(run, tmp_path, teacher_folder, sst2_dir):
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    code, out, _ = run("evaluate", teacher_folder, *data, "--json", tmp_path / "e.json")
    assert code == 0
    assert len(out.strip().splitlines()) == 2
    found = json.loads((tmp_path / "e.json").read_text())
    assert {"task", "split", "examples", "models", "software", "hardware"} == set(found)


def test_objectives_that_read_features_run_the_teacher_live(run, teacher_folder, sst2_dir, tmp_path):
    objectives = '{"logits": 1.0, "relations": 1.0, "hidden": 0.5}'
    words = ["--task", "sst2", "--data-dir", sst2_dir, "--layers", 2, "--layer-map", "last", "--objectives", objectives]
    code, _, err = run("distill", teacher_folder, *words, "--output-dir", tmp_path / "out", *FAST.split())
    assert code == 0, err
    record = read_json(tmp_path / "out" / "tkd_run.json")
    assert record["arguments"]["live"] is True
    assert record["arguments"]["layer_map"] == "last"
    assert record["metrics"]["loss_relations"] > 0


def test_training_shows_its_progress_and_losses_on_standard_error(teacher_folder, sst2_dir, tmp_path):
    """In a process of its own: whether there is a bar depends on the log level when transformers is imported."""
    program = "import sys; sys.argv[0] = 'tkd-hf'; from tkd_hf.cli import main; main()"
    words = ["finetune", teacher_folder, "--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words), *FAST.split(), "--logging-steps", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "{'loss': " in done.stderr
    assert "2/2 [" in done.stderr
    assert "loss': " not in done.stdout


def test_several_teachers_cached_and_live(run, teacher_folder, sst2_dir, tmp_path):
    """The same losses either way; a second teacher of equal weight changes them."""
    second = tmp_path / "second"
    build_teacher(seed=3).save_pretrained(second)
    build_tokenizer().save_pretrained(second)
    words = ["distill", teacher_folder, "--task", "sst2", "--data-dir", sst2_dir, "--layers", 2]
    words += ["--objectives", '{"logits": 1.0}', *FAST.split()]
    several = ["--extra-teacher", second, "--teacher-weights", "1,3"]
    found = {}
    for name, more in {"alone": [], "cached": several, "live": [*several, "--live"]}.items():
        code, _, err = run(*words, *more, "--output-dir", tmp_path / name)
        assert code == 0, err
        found[name] = read_json(tmp_path / name / "tkd_run.json")
    assert found["cached"]["metrics"]["loss"] == pytest.approx(found["live"]["metrics"]["loss"], abs=1e-4)
    assert found["cached"]["metrics"]["loss"] != pytest.approx(found["alone"]["metrics"]["loss"], abs=1e-3)
    assert found["cached"]["inputs"]["teacher"] == [str(teacher_folder), str(second)]
    assert found["cached"]["arguments"]["teacher_weights"] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--teacher-weights 1,2", "teacher_weights=[1.0, 2.0] for 1 teacher; give each a weight"),
        ("--teacher-weights heavy", "--teacher-weights 'heavy' must be a list of numbers, one per teacher"),
        ("--extra-teacher {teacher} --soft-labels x", "x is one file of soft labels, but there are 2 teachers"),
    ],
)
def test_teachers_that_do_not_fit(run, teacher_folder, sst2_dir, tmp_path, flags, message):
    words = ["distill", teacher_folder, "--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "out"]
    code, _, err = run(*words, *flags.format(teacher=teacher_folder).split())
    assert code == 2
    assert message in err.splitlines()[-1]
