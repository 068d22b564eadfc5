"""`tkd-hf evaluate` and `tkd-hf benchmark` print and store what their functions measure, and explain bad input."""

import io
import json
import os
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import Dataset

from tkd_hf import InputError
from tkd_hf.cli.output import prepare_streams, show_table, store_and_show
from tkd_hf.evaluation.columns import NAME, Column
from tkd_hf.evaluation.tables import Table

from ..factories import LABELS, TEXTS, build_teacher, read_json, skip_memory_measurement


@pytest.fixture
def student_folder(tmp_path, tokenizer):
    """Return a model that is correct on three of the eight examples; the teacher is correct on four."""
    folder = tmp_path / "student"
    build_teacher(seed=3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def command(student_folder, teacher_folder, sst2_dir):
    return ["evaluate", student_folder, "--teacher", teacher_folder, "--task", "sst2", "--data-dir", sst2_dir]


@pytest.fixture
def evaluated(run, command, tmp_path):
    """Evaluate teacher and student, and write results and disagreements."""
    code, out, err = run(*command, "--json", tmp_path / "e.json", "--disagreements", tmp_path / "d" / "d.jsonl")
    assert code == 0, err
    teacher, student = read_json(tmp_path / "e.json")["models"]
    rows = [json.loads(line) for line in (tmp_path / "d" / "d.jsonl").read_text().splitlines()]
    return SimpleNamespace(teacher=teacher, student=student, rows=rows, out=out)


def test_a_student_gets_intervals_and_changes_from_its_teacher(evaluated):
    teacher, student = evaluated.teacher, evaluated.student
    low, high = student["intervals"]["accuracy"]
    assert low <= student["metrics"]["accuracy"] <= high
    assert low < high
    assert student["changes"]["accuracy"]["change"] == pytest.approx(
        student["metrics"]["accuracy"] - teacher["metrics"]["accuracy"]
    )
    assert teacher["fidelity"] is None


def test_disagreements_are_listed_with_the_most_confident_first(evaluated):
    agreement = evaluated.student["fidelity"]["agreement"]
    assert len(evaluated.rows) == round((1 - agreement) * len(TEXTS)) > 0
    assert all(row["teacher"] != row["model"] for row in evaluated.rows)
    assert {row["text"] for row in evaluated.rows} <= set(TEXTS)
    confidences = [row["model_confidence"] for row in evaluated.rows]
    assert confidences == sorted(confidences, reverse=True)


def test_evaluate_shows_intervals_calibration_and_recall(evaluated):
    low, high = evaluated.student["intervals"]["accuracy"]
    expected = ["agreement", "calibration error", "McNemar", "negative", f"{low:.3f}–{high:.3f}"]
    assert [text for text in expected if text not in evaluated.out] == []


def test_a_drop_beyond_the_limit_exits_with_code_1_after_showing_results(run, command, tmp_path):
    assert run(*command, "--max-drop", 0.125)[0] == 0
    code, out, err = run(*command, "--max-drop", 0.005, "--json", tmp_path / "e.json")
    assert code == 1
    assert "the gate was missed by 0.1200: accuracy 0.3750 is 0.1250 below the teacher (0.5000)" in err
    assert "agreement" in out
    assert read_json(tmp_path / "e.json")["models"][1]["metrics"]["accuracy"] == 0.375


def test_a_drop_beyond_the_limit_stops_a_recipe(run, command, tmp_path, sst2_dir):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"teacher: {command[3]}\nmodel: {command[1]}\ndata: {{task: sst2, data_dir: {sst2_dir}}}\n"
        "stages:\n  - evaluate: {max_drop: 0.0}\n  - evaluate: {teacher: null}\n"
    )
    code, _, err = run("run", recipe)
    assert code == 1
    assert "missed by 0.1250" in err
    assert "stage 2 of 2" not in err


def test_regression_reports_the_correlation_without_calibration(run, tmp_path, tokenizer):
    for name, seed in (("teacher", 0), ("student", 5)):
        build_teacher((), seed, problem_type="regression").save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = {"text": TEXTS, "label": [float(label) for label in LABELS]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "validation.parquet")
    args = ["--dataset", tmp_path / "validation.parquet", "--eval-split", "train", "--json", tmp_path / "e.json"]
    code, out, err = run("evaluate", tmp_path / "student", "--teacher", tmp_path / "teacher", *args)
    assert code == 0, err
    student = read_json(tmp_path / "e.json")["models"][1]
    assert student["calibration"] is None
    assert -1 <= student["fidelity"]["pearson"] <= 1
    assert "McNemar" not in out


def test_predictions_that_are_nan_are_refused(run, command, student_folder, tokenizer):
    broken = build_teacher(seed=3)
    with torch.no_grad():
        broken.classifier.weight[0, 0] = float("nan")
    broken.save_pretrained(student_folder)
    code, _, err = run(*command)
    assert code == 2
    assert f"{student_folder} predicts NaN or infinity for 8 of 8 examples, the first at index 0" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-drop", "0.1"], "--max-drop 0.1 is the largest allowed drop below the teacher: add --teacher"),
        (["--disagreements", "d.jsonl"], "disagreements_file='d.jsonl' requires a teacher to compare with; name one"),
        (["--eval-split", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(run, student_folder, sst2_dir, flags, message):
    code, _, err = run("evaluate", student_folder, "--task", "sst2", "--data-dir", sst2_dir, *flags)
    assert code == 2
    assert message in err.splitlines()[-1]


def test_a_model_with_other_labels_is_refused(run, tmp_path, tokenizer, sst2_dir):
    build_teacher(("red", "green")).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    code, _, err = run("evaluate", tmp_path / "m", "--task", "sst2", "--data-dir", sst2_dir)
    assert code == 2
    assert "['red', 'green'], are not those of the data, ['negative', 'positive']" in err


def test_an_empty_split_is_refused_in_one_line(run, student_folder, sst2_dir):
    empty = Dataset.from_dict({"sentence": TEXTS, "label": LABELS}).select([])
    empty.to_parquet(sst2_dir / "sst2" / "validation.parquet")
    code, _, err = run("evaluate", student_folder, "--task", "sst2", "--data-dir", sst2_dir)
    assert code == 2
    assert len(err.splitlines()[-1]) > 20
    assert "Traceback" not in err


SMALL = ["--batch-sizes", "1,2", "--lengths", "4", "--rounds", 2]


@pytest.fixture(scope="module")
def timed_twice(shared):
    """Benchmark a model beside itself."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        skip_memory_measurement(monkeypatch)
        out, err = shared.run("benchmark", shared.teacher, shared.teacher, *SMALL, "--json", shared.path / "b.json")
    return SimpleNamespace(out=out, err=err, content=read_json(shared.path / "b.json"))


def test_benchmark_announces_its_work_and_suggests_an_evaluation(timed_twice, shared):
    teacher = shared.teacher
    assert timed_twice.err.splitlines()[0] == f"benchmarking {teacher}, {teacher} on built-in sentences"
    assert timed_twice.err.splitlines()[-1] == f"next: tkd-hf evaluate {teacher} --teacher {teacher}"


def test_a_model_compared_with_itself_gets_a_numbered_row(timed_twice, shared):
    head, first, second = timed_twice.out.strip().splitlines()
    assert "p50 ms (1)" in head
    assert "texts/s (2)" in head
    assert "reference" in first
    assert second.startswith(f"{shared.teacher} (2)")
    assert "×" in second


def test_the_json_of_a_benchmark_names_software_and_hardware(timed_twice):
    content = timed_twice.content
    assert len(content["models"]) == 2
    assert {"torch", "transformers"} <= set(content["software"])
    assert content["hardware"]["threads"] >= 1


@pytest.mark.slow
def test_a_benchmark_measures_memory_in_a_process_of_its_own(run, tmp_path, teacher_folder):
    """Starting the process takes about ten seconds."""
    assert run("benchmark", teacher_folder, *SMALL, "--json", tmp_path / "b.json")[0] == 0
    footprint = read_json(tmp_path / "b.json")["models"][0]["footprint"]
    assert 0 < footprint["before_megabytes"] < footprint["peak_megabytes"]


def test_the_table_names_the_task_and_the_number_of_threads(run, no_processes, tmp_path, teacher_folder, sst2_dir):
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    code, out, err = run("benchmark", teacher_folder, *data, *SMALL, "--threads", 1, "--json", tmp_path / "b.json")
    assert code == 0, err
    assert out.startswith("sst2, 1 thread ")
    assert read_json(tmp_path / "b.json")["hardware"]["threads"] == 1


def test_a_stage_compares_the_teacher_with_the_models_of_earlier_stages(
    run, no_processes, tmp_path, teacher_folder, sst2_dir
):
    fast = {"num_train_epochs": 1, "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    stages = [
        {"distill": {**fast, "layers": 1}},
        {"finetune": fast},
        {"benchmark": {"batch_sizes": [1, 2], "lengths": 4, "rounds": 2}},
    ]
    recipe = {"teacher": str(teacher_folder), "data": {"task": "sst2", "data_dir": str(sst2_dir)}, "stages": stages}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "out")}))
    code, _, err = run("run", tmp_path / "recipe.yaml", "--json", tmp_path / "run.json")
    assert code == 0, err
    result = read_json(tmp_path / "run.json")["stages"][2]
    names = [str(teacher_folder), str(tmp_path / "out" / "distill"), str(tmp_path / "out" / "finetune")]
    assert [model["name"] for model in result["models"]] == names
    assert (result["reference"], result["texts"], result["batch_sizes"]) == (names[0], "sst2", [1, 2])


def test_a_stage_needs_models_and_may_name_them(run, no_processes, tmp_path, teacher_folder):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"stages": [{"benchmark": {"models": ["no/such"]}}]}))
    code, _, err = run("run", tmp_path / "recipe.yaml")
    assert (code, "'no/such' is neither a folder with a loadable tokenizer" in err) == (2, True)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"stages": [{"benchmark": None}]}))
    code, _, err = run("run", tmp_path / "recipe.yaml")
    assert (code, "stage 1 of 1, benchmark: models is missing" in err) == (2, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("no/such", "'no/such' is neither a folder with a loadable configuration"),
        ("{teacher} --batch-sizes 0", "--batch-sizes 0 is too small; use at least 1"),
        ("{teacher} --batch-sizes 1,many", "--batch-sizes '1,many' has 'many', which is not a whole number"),
        (
            "{teacher} --lengths 16,1024",
            "lengths go up to 1024 tokens, but {teacher} reads at most 32; lower --lengths",
        ),
        ("{teacher} --task sst3 --lengths 4", "unknown task 'sst3'"),
        ("{teacher} --reference no/such --lengths 4", "'no/such' is neither a folder"),
        ("{teacher}/model.onnx --lengths 4", "check the name and the network"),
    ],
)
def test_bad_benchmark_input_gets_one_line_and_exit_code_2(run, no_processes, teacher_folder, args, message):
    code, out, err = run("benchmark", *args.format(teacher=teacher_folder).split())
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("tkd-hf: ")
    assert message.format(teacher=teacher_folder) in err.strip().splitlines()[-1]
    assert not out


def test_missing_models_are_refused(run):
    code, _, err = run("benchmark")
    assert (code, "missing MODELS" in err) == (2, True)


@pytest.fixture
def named_classes(tmp_path, tokenizer):
    """Return the arguments that evaluate a model, with itself as the teacher, on classes with unusual names."""
    build_teacher(("[spam]", "[/url]")).save_pretrained(tmp_path / "exp[a]")
    tokenizer.save_pretrained(tmp_path / "exp[a]")
    rows = {"text": TEXTS, "label": [("[spam]", "[/url]")[label] for label in LABELS]}
    Dataset.from_dict(rows).to_csv(tmp_path / "validation.csv")
    data = ["--dataset", tmp_path / "validation.csv", "--eval-split", "train"]
    return ["evaluate", tmp_path / "exp[a]", "--teacher", tmp_path / "exp[a]", *data]


def test_names_in_square_brackets_are_printed_as_they_are(run, named_classes):
    code, out, err = run(*named_classes)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines() if line.startswith("[")] == ["[spam]", "[/url]"]
    assert "exp[a]" in out


@pytest.mark.parametrize(("encoding", "dash"), [("ascii", "-"), ("latin-1", "-"), ("utf-8", "–")])
def test_characters_that_the_terminal_lacks_are_replaced(monkeypatch, encoding, dash):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", terminal)
    prepare_streams()
    column = Column("size", format=lambda value: f"{value}×")
    show_table(Table("Größe", (NAME, column), [("ж", 2), ("x", None)]))
    terminal.flush()
    lines = terminal.buffer.getvalue().decode(encoding).split("\n")
    assert lines[2].split() == ["x", dash]
    assert lines[1].split() == {"ascii": ["?", "2x"], "latin-1": ["?", "2×"], "utf-8": ["ж", "2×"]}[encoding]


def test_results_are_stored_before_they_are_printed(monkeypatch, tmp_path):
    def fail(table):
        raise UnicodeEncodeError("ascii", "–", 0, 1, "the terminal cannot print it")

    monkeypatch.setattr("tkd_hf.cli.output.show_table", fail)
    with pytest.raises(UnicodeEncodeError):
        store_and_show(tmp_path / "e.json", {"accuracy": 0.5}, Table("", (NAME,), []))
    assert read_json(tmp_path / "e.json") == {"accuracy": 0.5}


def test_results_are_printed_although_they_cannot_be_stored(capsys, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        store_and_show(tmp_path / "no" / "e.json", {}, Table("results", (NAME,), []))
    assert "results" in capsys.readouterr().out


def test_a_closed_pipe_neither_stops_a_command_nor_prints_an_error(monkeypatch, capfd):
    """As in `tkd-hf evaluate … | head -1`: the reader has gone, but the gate and the next stage still count."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        for _ in range(2):
            show_table(Table("", (NAME,), [("x" * 1000,)] * 100))
    assert capfd.readouterr().err == ""
