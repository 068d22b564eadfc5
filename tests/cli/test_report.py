"""`tkd-hf report` and `tkd-hf card`, as commands and as stages of a recipe."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from tkd_hf.hub.folder import check_folder

from ..factories import FAST, build_teacher, read_json, skip_memory_measurement, write_recipe


SMALL = ["--rounds", 1, "--batch-sizes", "1,2", "--lengths", 16]


@pytest.fixture(scope="module")
def report(shared):
    """Report on two students of one teacher, and a folder without a model."""
    for name, layers in (("two", 2), ("one", 1)):
        args = [*shared.data, "--layers", layers, "--logging-steps", 1, *FAST.split()]
        shared.run("distill", shared.teacher, *args, "--output-dir", shared.path / "runs" / name)
    (shared.path / "runs" / "notes").mkdir()
    folder = shared.path / "r"
    args = ["--data-dir", shared.path / "data", "--output-dir", folder, *SMALL, "--json", shared.path / "r.json"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        skip_memory_measurement(monkeypatch)
        out, _ = shared.run("report", *(shared.path / "runs" / name for name in ("notes", "one", "two")), *args)
    page = (folder / "report.md").read_text(encoding="utf-8")
    return SimpleNamespace(folder=folder, out=out, page=page, content=read_json(folder / "report.json"))


def test_a_report_takes_teacher_and_task_from_the_runs(report, shared):
    assert report.content == read_json(shared.path / "r.json")
    assert report.content["names"] == ["teacher", "one", "two"]
    assert "notes contains no model and is skipped" not in report.out
    assert "speed-up" in report.out


def test_a_report_evaluates_and_times_all_models_beside_the_teacher(report):
    evaluated, timed = report.content["evaluation"]["models"], report.content["benchmark"]["models"]
    assert [model["name"] for model in evaluated] == [model["name"] for model in timed]
    assert evaluated[0]["fidelity"] is None
    assert timed[0]["timings"][0]["speedup"] == 1


def test_a_report_contains_the_losses_of_the_training(report):
    assert [entry["step"] for entry in report.content["logs"]["one"] if "loss_logits" in entry] == [1, 2]


def test_the_page_of_a_report_shows_plots_and_intervals(report):
    linked = re.findall(r"\]\(([^)]+)\)", report.page)
    assert {"pictures/pareto.png", "pictures/reliability.png", "pictures/training.png"} < set(linked)
    assert all((report.folder / name).exists() for name in linked)
    assert "{{" not in report.page
    for model in report.content["evaluation"]["models"]:
        low, high = model["intervals"]["accuracy"]
        assert f"{model['metrics']['accuracy']:.4f} ({low:.3f}–{high:.3f})" in report.page


def test_a_report_lists_each_disagreement_of_a_student(report):
    lines = (report.folder / "disagreements-one.jsonl").read_text().splitlines()
    student = report.content["evaluation"]["models"][1]
    assert len(lines) == round(8 * (1 - student["fidelity"]["agreement"]))


def test_a_report_on_scores_has_no_calibration_and_no_recall(run, no_processes, tmp_path, tokenizer, sst2_dir):
    for name, seed in (("teacher", 0), ("student", 3)):
        build_teacher((), seed, problem_type="regression").save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"text": text, "score": index / 8} for index, text in enumerate(["good film", "dull", "fine", "not good"])]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["--dataset", tmp_path / "d.jsonl", "--label-column", "score", "--eval-split", "train", *SMALL]
    args += ["--no-disagreements"]
    code, _, err = run(
        "report", tmp_path / "student", "--teacher", tmp_path / "teacher", *args, "--output-dir", tmp_path / "r"
    )
    assert code == 0, err
    page = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    assert "correlation with the teacher" in page
    assert "reliability" not in page
    assert "Recall" not in page
    assert "disagreements" not in page
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["pictures", "report.json", "report.md"]


def test_a_report_stage_compares_all_earlier_models(run, no_processes, tmp_path, teacher_folder, sst2_dir):
    fast = {"num_train_epochs": 1, "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    small = {"rounds": 1, "batch_sizes": "1", "lengths": "16"}
    another = {"student": None, "layers": 1}
    stages = [{"distill": {"layers": 2} | fast}, {"distill": another | fast}, {"report": small}, {"distill": fast}]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data, output_dir=str(tmp_path / "all"))
    code, _, err = run("run", recipe)
    assert code == 0, err
    assert read_json(tmp_path / "all" / "report" / "report.json")["names"] == ["teacher", "distill", "distill-2"]
    last = read_json(tmp_path / "all" / "distill-3" / "tkd_run.json")
    assert last["arguments"]["student"] == str(tmp_path / "all" / "distill-2")  # not from the report


def record(folder, **inputs):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tkd_run.json").write_text(json.dumps({"stage": "distill", "inputs": inputs, "arguments": {}}))
    return folder


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([("a", "sst2"), ("a", "cola")], "name several: sst2, cola"),
        ([("a", "sst2"), ("b", "sst2")], 'name several teachers: "a", "b"; choose one with --teacher'),
        ([()], "name the data with --task or --dataset"),
        ([("a", "reviews")], "the runs were trained on 'reviews', and their records"),
    ],
)
def test_records_that_disagree_on_teacher_or_task_are_refused(run, tmp_path, inputs, message):
    folders = [
        record(tmp_path / str(index), **dict(zip(("teacher", "task"), values, strict=False)))
        for index, values in enumerate(inputs)
    ]
    code, _, err = run("report", *folders, "--output-dir", tmp_path / "r")
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "r").exists()


def test_a_quantized_run_has_the_teacher_of_the_stage_before_it(tmp_path):
    from tkd_hf.records.recorded import recorded_input
    from tkd_hf.records.run_folder import StageRecord, write_record

    stages = [vars(StageRecord("distill", {"teacher": name, "task": "sst2"}, {})) for name in ("org/early", "org/late")]
    write_record(tmp_path, StageRecord("quantize", {"model": "runs/s", "task": "mrpc"}, {}, before=stages))
    assert recorded_input([str(tmp_path)], "teacher") == "org/late"
    assert recorded_input([str(tmp_path)], "task") == "mrpc"


def test_a_damaged_record_is_named(run, tmp_path):
    folder = record(tmp_path / "x", teacher="a", task="sst2")
    (folder / "tkd_run.json").write_text("{")
    code, _, err = run("report", folder, "--output-dir", tmp_path / "r")
    assert code == 2
    assert f"{folder / 'tkd_run.json'} is damaged" in err.splitlines()[-1]


def test_a_report_on_the_teacher_alone_is_refused(run, tmp_path, teacher_folder, sst2_dir):
    args = ["--task", "sst2", "--data-dir", sst2_dir, "--output-dir", tmp_path / "r"]
    code, _, err = run("report", teacher_folder, "--teacher", teacher_folder, *args)
    assert code == 2
    assert f"no model in {teacher_folder} except the teacher {teacher_folder}; name a student" in err


@pytest.fixture(scope="module")
def card_run(shared):
    """Run a recipe that distils, prunes, reports and writes a card; return the folders of both students."""
    fast = {"num_train_epochs": 1, "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    stages = [
        {"distill": {"layers": 2, **fast}},
        {"prune": {"target_params": 0.9, "no_train": True, "importance": "activation"}},
        {"report": {"rounds": 1, "batch_sizes": "1", "lengths": "16"}},
        {"card": {"license": "apache-2.0", "repo_id": "org/small"}},
    ]
    data = {"task": "sst2", "data_dir": str(shared.path / "data")}
    recipe = write_recipe(shared.path, stages, teacher=str(shared.teacher), data=data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        skip_memory_measurement(monkeypatch)
        out, _ = shared.run("run", recipe, "--output-dir", shared.path / "cards")
    return SimpleNamespace(distilled=shared.path / "cards/distill", pruned=shared.path / "cards/prune", out=out)


def page_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_stage_describes_the_last_student_alone(card_run):
    assert card_run.out.splitlines()[-1].endswith("prune/README.md")
    assert "Results compared with the teacher" in page_of(card_run.pruned)
    assert "Results compared with the teacher" not in page_of(card_run.distilled)


def test_every_student_of_a_recipe_can_be_published_without_local_paths(card_run, shared):
    for folder in (card_run.distilled, card_run.pruned):
        check_folder(folder)
        assert str(shared.path) not in page_of(folder)
        assert "| teacher layers copied into the student (zero-based) | 1, 3 |" in page_of(folder)


def test_a_card_describes_all_stages_in_order(card_run):
    page = page_of(card_run.pruned)
    assert page.index("stage: distill") < page.index("stage: prune")
    assert "removed heads" in page
    assert [stage["stage"] for stage in read_json(card_run.pruned / "tkd_run.json")["before"]] == ["distill"]


def test_a_card_stage_sets_the_metadata_of_the_hub(card_run):
    metadata = ModelCard(page_of(card_run.pruned)).data
    assert (metadata.license, metadata.datasets, metadata.model_name) == ("apache-2.0", ["nyu-mll/glue"], "small")
    assert metadata.eval_results[0].dataset_config == "sst2"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere contains no model"),
        (["teacher", "--language", "English"], "language contains 'English'"),
        (["teacher", "--report", "data"], "data contains no report.json"),
    ],
)
def test_bad_input_of_card_gets_one_line_and_exit_code_2(
    run, tmp_path, teacher_folder, sst2_dir, monkeypatch, args, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("card", *args)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (teacher_folder / "README.md").exists()
