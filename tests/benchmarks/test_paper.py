"""The paper's experiments in their quick size: recipes, runs, rows and resources."""

import pytest

import paper
import paper_recipes
import resources
from tests.factories import read_json
from tkd_hf import DistillationTrainer, DistillationTrainingArguments


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder that the tests share, so that teachers are made once."""
    return tmp_path_factory.mktemp("paper")


@pytest.mark.parametrize("layers", [3, 2])
def test_stages_are_training_arguments_that_exist(tmp_path, layers):
    for recipe in paper_recipes.recipes(layers).values():
        for stage in recipe.stages:
            DistillationTrainingArguments(str(tmp_path), report_to="none", **stage)


def test_the_stages_of_every_recipe_share_the_steps_of_the_task():
    for experiment in paper.EXPERIMENTS.values():
        for name, task, layers, _ in experiment.runs():
            assert paper.TASKS[task].steps % len(paper_recipes.recipes(layers)[name].stages) == 0


def test_recipes_compared_are_those_of_the_papers():
    distilbert, tinybert = paper_recipes.distilbert(), paper_recipes.tinybert(3)
    assert distilbert.start == "skip"
    weights = distilbert.stages[0]["objectives"]
    assert [weights[name] / weights["cosine"] for name in ("logits", "hard", "cosine")] == [5, 2, 1]
    assert [set(stage["objectives"]) for stage in tinybert.stages] == [
        {"embeddings", "hidden", "attention"},
        {"logits"},
    ]


def test_the_ablation_removes_one_part_at_a_time():
    ours, ablations = paper_recipes.OURS, paper_recipes.ablations()
    for name in paper_recipes.FEATURES | paper_recipes.PREDICTIONS:
        left = [{k: v for k, v in stage["objectives"].items() if k != name} for stage in ours.stages]
        recipe = ablations[f"ours without {paper_recipes.NAMES.get(name, name)}"]
        assert [stage["objectives"] for stage in recipe.stages] == left
    assert ablations["ours without features"].stages == ours.stages[1:]
    assert [set(stage["objectives"]) for stage in ablations["ours in one stage"].stages] == [
        {*paper_recipes.FEATURES, *paper_recipes.PREDICTIONS}
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
