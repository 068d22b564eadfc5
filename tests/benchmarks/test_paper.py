"""The paper's experiments in their quick size; results page, README and cards say what results.json says."""

import json
from pathlib import Path

import pytest

import cards
import paper
import resources
import results_page
import results_tables
from tests.factories import read_json
from tkd_hf import DistillationTrainer, DistillationTrainingArguments


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder that the tests share, so that teachers are made once."""
    return tmp_path_factory.mktemp("paper")


@pytest.mark.parametrize("layers", [3, 2])
def test_stages_are_training_arguments_that_exist(tmp_path, layers):
    for recipe in paper.recipes(layers).values():
        for stage in recipe.stages:
            DistillationTrainingArguments(str(tmp_path), report_to="none", **stage)


def test_the_stages_of_every_recipe_share_the_steps_of_the_task():
    for experiment in paper.EXPERIMENTS.values():
        for name, task, layers, _ in experiment.runs():
            assert paper.TASKS[task].steps % len(paper.recipes(layers)[name].stages) == 0


def test_recipes_compared_are_those_of_the_papers():
    distilbert, tinybert = paper.distilbert(), paper.tinybert(3)
    assert distilbert.start == "skip"
    weights = distilbert.stages[0]["objectives"]
    assert [weights[name] / weights["cosine"] for name in ("logits", "hard", "cosine")] == [5, 2, 1]
    assert [set(stage["objectives"]) for stage in tinybert.stages] == [
        {"embeddings", "hidden", "attention"},
        {"logits"},
    ]


def test_the_ablation_removes_one_part_at_a_time():
    ours, ablations = paper.OURS, paper.ablations()
    for name in paper.FEATURES | paper.PREDICTIONS:
        left = [{k: v for k, v in stage["objectives"].items() if k != name} for stage in ours.stages]
        recipe = ablations[f"ours without {paper.NAMES.get(name, name)}"]
        assert [stage["objectives"] for stage in recipe.stages] == left
    assert ablations["ours without features"].stages == ours.stages[1:]
    assert [set(stage["objectives"]) for stage in ablations["ours in one stage"].stages] == [
        {*paper.FEATURES, *paper.PREDICTIONS}
    ]
    assert [stage.get("temperature") for stage in ablations["ours with temperature 1"].stages] == [None, 1.0]
    starts = {name: recipe.start for name, recipe in ablations.items() if recipe.start != ours.start}
    assert starts == {"ours from every other layer": "skip", "ours from random weights": "random"}
    assert {name for name, recipe in ablations.items() if recipe.dropout != ours.dropout} == {"ours with dropout"}
    assert ablations["ours with dropout"].stages == ours.stages


def test_every_recipe_runs_once_before_another_seed_or_size():
    runs = paper.EXPERIMENTS["comparison"].runs()
    assert {(layers, seed) for _, _, layers, seed in runs[:20]} == {(3, 0)}
    assert {(layers, seed) for _, _, layers, seed in runs[20:40]} == {(2, 0)}
    assert len(runs) == 4 * 5 * 2 * 3


@pytest.mark.slow
def test_a_run_becomes_a_row_and_is_not_repeated(work, monkeypatch):
    options = ["--quick", "--work-dir", str(work), "--layers", "2", "--seeds", "0"]
    paper.main(["comparison", *options, "--recipes", "ours", "labels alone"])
    text = (work / "results.json").read_text()
    rows = read_json(work / "results.json")["paper"]
    assert [(row["recipe"], row["task"]) for row in rows] == [
        (recipe, task) for recipe in ("labels alone", "ours") for task in ("sst2", "stsb")
    ]
    assert rows[0]["teacher_revision"] == rows[2]["teacher_revision"]  # both learn from the teacher of their seed
    assert str(work) not in text
    assert not list((work / "students").iterdir())  # no weights are left
    monkeypatch.setattr(paper, "distill", None)
    paper.main(["comparison", *options, "--recipes", "ours", "labels alone"])
    assert (work / "results.json").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "task", "recipe"),
    [
        ("temperature", "cola", "temperature 5, soft weight 0.9"),
        ("ablation", "stsb", "ours from random weights"),
        ("baseline", "rte", "labels alone"),
    ],
)
def test_every_experiment_runs(work, experiment, task, recipe):
    seed, layers = paper.EXPERIMENTS[experiment].seeds[0], paper.EXPERIMENTS[experiment].layers[0]
    options = ["--quick", "--work-dir", str(work), "--tasks", task, "--recipes", recipe, "--layers", str(layers)]
    if task == "rte":
        paper.tiny_task(work / "data", "mnli")  # which the teacher of RTE learns first
    paper.main([experiment, *options, "--seeds", str(seed)])
    row = read_json(work / "results.json")["paper"][-1]
    assert [row[name] for name in paper.KEY] == [recipe, task, layers, seed]
    assert row["examples"] == 16


@pytest.mark.slow
def test_an_interrupted_run_continues_from_its_checkpoint(tmp_path, monkeypatch):
    """The run stops in the last step of its first stage, which has a checkpoint for each of its two steps."""
    steps, training_step = [], DistillationTrainer.training_step

    def step(self, *args):
        if len(steps) == 1:
            raise KeyboardInterrupt
        steps.append(self.state.global_step)
        return training_step(self, *args)

    monkeypatch.setattr(paper, "TRAINING", paper.TRAINING | {"save_steps": 1})
    monkeypatch.setattr(paper, "QUICK_STEPS", 4)
    monkeypatch.setattr(DistillationTrainer, "training_step", step)
    options = ["--quick", "--work-dir", str(tmp_path), "--recipes", "ours", "--seeds", "1", "--layers", "2"]
    with pytest.raises(KeyboardInterrupt):
        paper.main(["comparison", *options, "--tasks", "stsb"])
    assert not (tmp_path / "results.json").exists()
    steps.append("interrupted")
    paper.main(["comparison", *options, "--tasks", "stsb"])
    assert steps == [0, "interrupted", 1, 0, 1]


@pytest.mark.slow
def test_a_subset_of_the_training_examples_is_the_same_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "TASKS", {"sst2": paper.Task(steps=1, examples=8)})
    options = paper.read_options(paper.parser_of("", "runs"), [])
    options.data_dir = paper.tiny_task(tmp_path / "data", "sst2")
    subsets = []
    for name in ("first", "second"):
        options.work_dir = tmp_path / name
        subsets.append(list(paper.load_split(paper.data_of("sst2", options), "train")[0]["text"]))
    all_texts = list(paper.load_split(paper.DataArguments("sst2", data_dir=options.data_dir), "train")[0]["text"])
    assert subsets[0] == subsets[1]
    assert len(subsets[0]) == 8
    assert subsets[0] != all_texts[:8]  # not the head of the file


@pytest.mark.slow
def test_resources_are_measured_for_every_model_precision_and_batch_size(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "ROUNDS", 2)

    def in_process(measurement, case, options):
        return resources.measure(measurement, case, options.teacher, options.data_dir, options.steps)

    monkeypatch.setattr(resources, "in_own_process", in_process)
    resources.main(["--quick", "--work-dir", str(tmp_path)])
    rows = read_json(tmp_path / "results.json")["resources"]
    cases = [(row["measurement"], row["model"], row["precision"], row["batch_size"]) for row in rows]
    models, precisions = ("teacher", "1 layers"), ("fp32", "bf16")
    assert cases[:3] == [*(("training", model, "fp32", 4) for model in models), ("training", "1 layers", "bf16", 4)]
    assert cases[3:7] == [("inference memory", model, precision, 4) for model in models for precision in precisions]
    assert set(cases[7:]) == {
        ("latency", model, precision, size) for model in models for precision in precisions for size in (1, 4)
    }
    assert all(row["milliseconds"] > 0 for row in rows[7:])


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(tmp_path):
    options = resources.read_options(resources.parser_of("", "runs"), [])
    options.teacher, options.steps = resources.tiny_model(tmp_path / "teacher", layers=2), 1
    options.data_dir = resources.tiny_task(tmp_path / "data", "mrpc")
    values = resources.in_own_process("inference memory", (1, "fp32", 4), options)
    model = resources.load(options.teacher, 1, "fp32")
    assert values["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert values["peak_megabytes"] > values["weights_megabytes"]


# row of the README's table -> model, backend and weights
README_ROWS = {
    "teacher: MiniLM, 6 layers": ("teacher", "pytorch", "float32"),
    "teacher, only quantized": ("teacher", "onnx", "int8-dynamic"),
    "student: 3 layers": ("3 layers", "pytorch", "float32"),
    "student, quantized": ("3 layers", "onnx", "int8-dynamic"),
}


def run(share: float, size: str = "3 layers") -> dict:
    """Return a run of the family whose student has that share of its teacher's metric."""
    student = {"value": share, "agreement": 0.9, "speedup": 2.0, "megabytes": 1.0, "milliseconds": 1.0}
    return {"teacher": {"value": 1.0, "megabytes": 2.0}, "students": {size: student}}


def test_the_page_is_what_the_generator_writes():
    assert results_page.PAGE.read_text(encoding="utf-8") == results_page.page()


def test_the_readme_states_the_mean_share_of_the_quickstart():
    """The mean over the seeds of the int8 student's accuracy, divided by that of its own teacher."""
    accuracy = {(row["seed"], row["model"]): row["accuracy"] for row in results_tables.rows_of("quickstart")}
    seeds = sorted({seed for seed, _ in accuracy})
    share = sum(accuracy[seed, "3 layers, int8"] / accuracy[seed, "teacher"] for seed in seeds) / len(seeds)
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())
    assert len(seeds) == 3
    assert f"Its int8 student keeps {share:.1%}".replace("%", " %") in readme


def test_the_table_in_the_readme_says_what_was_measured():
    rows = {
        (row["model"], row["backend"], row["weights"]): row
        for row in results_tables.rows_of("quantization")
        if row["task"] == "sst2"
    }
    lines = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    table = {title: numbers for title, _, *numbers in tables}
    for title, key in README_ROWS.items():
        row = rows[key]
        agreement = "" if row["agreement"] is None else f"{100 * row['agreement']:.1f} %"
        milliseconds = row["timings"][0]["milliseconds"]
        assert table[title] == [f"{row['value']:.3f}", agreement, f"{milliseconds:.1f}", f"{row['megabytes']:.1f}"]


def test_the_mean_of_a_size_counts_a_student_above_its_teacher_as_equal_to_it(monkeypatch):
    runs = {"sst2": [run(1.2)], "cola": [run(0.8)], "reviews": [run(0.1)]}
    monkeypatch.setattr(results_tables, "tasks", lambda: runs)
    values = results_tables.means("3 layers", results_tables.GLUE)
    assert values["share"] == pytest.approx(0.9)
    assert (values["faster"], values["smaller"]) == (2, 2)


def test_the_standard_error_of_a_mean_follows_from_the_deviations_over_seeds(monkeypatch):
    """Two tasks with deviations of 0.06 and 0.08 over 4 seeds each: √(0.03² + 0.04²) / 2."""
    spread = [-1.5, -0.5, 0.5, 1.5]  # a deviation of √(5/3)
    runs = {
        name: [run(0.8 + step * deviation / (5 / 3) ** 0.5) for step in spread]
        for name, deviation in (("sst2", 0.06), ("cola", 0.08))
    }
    monkeypatch.setattr(results_tables, "tasks", lambda: runs)
    assert results_tables.means("3 layers")["standard_error"] == pytest.approx(0.025)
    runs["rte"] = [run(0.9)]
    assert results_tables.means("3 layers")["standard_error"] is None


def test_tasks_that_were_timed_elsewhere_are_named(monkeypatch):
    machines = {"sst2": "AMD", "cola": "Intel", "rte": "AMD", "mrpc": "Intel", "stsb": "AMD", "clinc150": "Arm"}
    monkeypatch.setattr(
        results_tables, "tasks", lambda: {name: [{"machine": machine}] for name, machine in machines.items()}
    )
    assert results_tables.machines_of_tasks() == "Timed on AMD; CoLA, MRPC on Intel; CLINC150 on Arm"


def test_runs_of_a_seed_must_have_the_same_teacher(monkeypatch):
    rows = [
        {"recipe": recipe, "layers": 3, "task": "sst2", "seed": 0, "teacher_revision": revision}
        for recipe, revision in (("ours", "a"), ("TinyBERT", "b"))
    ]
    monkeypatch.setattr(results_tables, "rows_of", lambda name: rows)
    with pytest.raises(SystemExit, match="sst2, seed 0: runs of two teachers, a and b"):
        results_tables.paper_runs()


def test_standard_errors_fall_with_the_number_of_examples():
    errors = results_tables.STANDARD_ERRORS
    assert errors["accuracy"](0.9, 900) == pytest.approx(0.01)
    assert errors["matthews_correlation"](0.0, 100) == pytest.approx(0.1)
    assert errors["pearson"](0.5, 100) == pytest.approx(0.075)


RECORDS = json.loads((cards.CARDS / "records.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORDS)
def test_a_card_is_what_its_record_renders_to(name):
    assert (cards.CARDS / f"{name}.md").read_text(encoding="utf-8") == cards.render(RECORDS[name])


def test_every_card_has_a_record():
    assert {path.stem for path in cards.CARDS.glob("*.md")} == set(RECORDS)
