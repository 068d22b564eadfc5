"""The paper's experiments at the quick size: what is recorded, repeated, resumed and reported.

All tests share one work folder: what one has run, another finds.
"""

import shutil
from dataclasses import replace
from statistics import mean

import pytest
from PIL import Image

import measure
import recipes
import report
import run
import study
from experiments import EXPERIMENTS
from sizes import FULL, QUICK, Setting
from tests.conftest import read_json
from tkd_hf import DistillationTrainer, DistillationTrainingArguments, InputError
from tkd_hf.data.loading import DataArguments, load_splits


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


def command(work, *arguments: str) -> int:
    return run.main([*arguments, "--quick", "--work-dir", str(work)])


def quick_study(work) -> study.Study:
    return run.make_study(run.parse(["baseline", "--quick", "--work-dir", str(work)]))


def records(work) -> dict:
    return {path: path.stat().st_mtime_ns for path in work.glob("results/records/*/*.json")}


def assert_written(work, name: str):
    content, text = read_json(work / f"results/{name}.json"), (work / f"results/{name}.md").read_text()
    assert content["command"] in text
    assert f"({name}.png)" in text
    with Image.open(work / f"results/{name}.png") as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # legible on a dark page
    return content, text


# --- recipes and sizes


@pytest.mark.parametrize("layers", [3, 2])
def test_the_recipes_are_arguments_that_exist(tmp_path, layers):
    for recipe in recipes.recipes(layers).values():
        assert recipe.about
        for stage in recipe.stages:
            DistillationTrainingArguments(str(tmp_path), report_to="none", **stage)


@pytest.mark.parametrize("size", [FULL, QUICK], ids=lambda size: size.name)
def test_every_recipe_trains_for_the_same_number_of_steps(tmp_path, size):
    made = study.Study(size, None, None, None, tmp_path, tmp_path)
    for make in EXPERIMENTS.values():
        for one in make(size).runs():
            assert sum(stage["max_steps"] for stage in made.settings(one)["stages"]) == size.settings[one.setting].steps


def test_recipes_compared_are_those_of_the_papers():
    distilbert, tinybert = recipes.distilbert(), recipes.tinybert(3)
    assert distilbert.start == "skip"
    weights = distilbert.stages[0]["objectives"]
    assert [weights[name] / weights["cosine"] for name in ("logits", "hard", "cosine")] == [5, 2, 1]
    assert [set(stage["objectives"]) for stage in tinybert.stages] == [
        {"embeddings", "hidden", "attention"},
        {"logits"},
    ]


def test_the_ablation_takes_one_component_away_at_a_time():
    ours, found = recipes.OURS, recipes.ablations()
    for name in recipes.FEATURES | recipes.ANSWERS:
        left = [{k: v for k, v in stage["objectives"].items() if k != name} for stage in ours]
        assert [stage["objectives"] for stage in found[f"ours-without-{name}"].stages] == left
    assert found["ours-without-features"].stages == ours[1:]
    assert [set(stage["objectives"]) for stage in found["ours-at-once"].stages] == [
        {*recipes.FEATURES, *recipes.ANSWERS}
    ]
    assert [stage.get("temperature") for stage in found["ours-temperature-1"].stages] == [None, 1.0]
    assert (found["ours-random-start"].start, found["ours-skip-start"].start) == ("random", "skip")
    assert {recipe.start for name, recipe in found.items() if not name.endswith("start")} == {recipes.OUR_START}
    assert {recipe.dropout for name, recipe in found.items() if name != "ours-dropout"} == {recipes.OUR_DROPOUT}
    assert (found["ours-dropout"].stages, found["ours-dropout"].dropout) == (ours, None)


def test_the_most_informative_runs_come_first():
    runs = EXPERIMENTS["comparison"](FULL).runs()
    assert {(one.seed, one.layers) for one in runs[:20]} == {(0, 3)}
    assert {(one.seed, one.layers) for one in runs[20:40]} == {(0, 2)}
    assert len(runs) == 4 * 5 * 2 * 3


# --- running


@pytest.mark.slow
def test_comparison_fills_what_is_missing_and_says_what_is(work, monkeypatch):
    assert command(work, "comparison", "--seeds", "0", "--tasks", "sst2") == 0
    before = records(work)
    assert len(before) == 4
    assert command(work, "comparison", "--seeds", "0", "--tasks", "stsb", "--recipes", "ours") == 0
    after = records(work)
    assert len(after) == 5
    assert before.items() <= after.items()  # untouched

    content, text = assert_written(work, "comparison")
    assert "**11 of 16 runs are missing**" in text
    ours = next(row for row in content["rows"] if row["recipe"] == "ours")
    made = [read_json(work / f"results/records/ours/{task}-1l-s0.json") for task in ("sst2", "stsb")]
    kept = [
        one["metrics"][name] / one["teacher"]["metrics"][name]
        for one, name in zip(made, ("accuracy", "pearson"), strict=True)
    ]
    assert ours["of_teacher"]["values"] == pytest.approx([mean(kept)])
    assert next(row for row in content["rows"] if row["recipe"] == "plain")["of_teacher"] is None
    for one in made:
        assert one["software"]["torch"]
        assert one["hardware"]["threads"]
        assert one["seconds"] > 0
        assert one["resumed"] is False
        assert str(work) not in str(one)  # no machine's paths
    assert not list(work.glob("students/*/*"))  # no weights are left

    monkeypatch.setattr(study, "distill", None)  # a repeated command runs nothing
    assert command(work, "comparison", "--seeds", "0", "--tasks", "sst2") == 0
    assert records(work) == after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "only"),
    [
        ("baseline", ["plain"]),
        ("temperature", ["t5-w0.9", "t2-w1"]),
        ("ablation", ["ours-without-hard", "ours-random-start"]),
        ("tuning", ["ours-lr0.0001", "ours-dropout-lr0.0001"]),
    ],
)
def test_every_experiment_writes_its_table(work, name, only):
    seed = EXPERIMENTS[name](QUICK).seeds[0]
    assert command(work, name, "--seeds", str(seed), "--recipes", *only) == 0
    content, _ = assert_written(work, name)
    settings = len(content["tasks"])
    assert [len(row["tasks"]) for row in content["rows"] if row["recipe"] in only] == [settings] * len(only)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_from_its_checkpoint(work, monkeypatch):
    """A run that no other test makes, stopped in the last step of its first stage."""
    steps, train = [], DistillationTrainer.training_step

    def step(self, *args):
        if len(steps) == 1:
            raise KeyboardInterrupt
        steps.append(self.state.global_step)
        return train(self, *args)

    settings = QUICK.settings | {"stsb": Setting("stsb", steps=4, tokens=10)}  # two in each stage
    monkeypatch.setattr(run, "QUICK", replace(QUICK, save_steps=1, settings=settings))
    monkeypatch.setattr(DistillationTrainer, "training_step", step)
    arguments = ["comparison", "--recipes", "ours", "--seeds", "1", "--tasks", "stsb"]
    with pytest.raises(KeyboardInterrupt):
        command(work, *arguments)
    path = work / "results/records/ours/stsb-1l-s1.json"
    assert not path.exists()

    steps.append("interrupted")
    assert command(work, *arguments) == 0
    assert steps == [0, "interrupted", 1, 0, 1]
    record = read_json(path)
    assert record["resumed"] is True
    assert record["seconds"] is None
    assert "ours/stsb-1l-s1" in assert_written(work, "comparison")[0]["resumed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["precision", "resources"])
def test_costs_are_measured_once(work, monkeypatch, name):
    monkeypatch.setattr(measure, "in_own_process", measure.measure)
    monkeypatch.setattr(measure, "ROUNDS", 2)
    assert command(work, name) == 0
    content, text = assert_written(work, name)
    assert content["missing"] == []
    assert "–" not in text
    monkeypatch.setattr(measure, "in_own_process", None)
    assert command(work, name) == 0


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own(work):
    made = quick_study(work)
    places = (made.teacher("timing", seed=0), "sst2", made.data("timing").data_dir)
    found = measure.in_own_process(measure.Measurement("memory", *places, (1,), ("fp32",), (4,), {}, 0))
    assert 0 < found["before_megabytes"] <= found["peak_megabytes"]
    assert found["parameters"] == 3426


@pytest.mark.slow
def test_a_record_of_other_settings_or_of_another_teacher_is_made_again(work, monkeypatch):
    command(work, "comparison", "--seeds", "0", "--tasks", "sst2", "--recipes", "ours")
    made, one = quick_study(work), study.Run("ours", "sst2", 1, 0)
    assert made.missing([one]) == []
    with monkeypatch.context() as changed:
        changed.setattr(recipes, "OURS", (recipes.FIRST, recipes.ANSWERED | {"temperature": 3.0}))
        assert made.missing([one]) == [one]
    with monkeypatch.context() as changed:
        changed.setattr(study, "teacher_revision", lambda folder: "another")
        assert quick_study(work).missing([one]) == [one]


@pytest.mark.slow
def test_each_seed_has_a_teacher_of_its_own_and_may_be_run_on_another_machine(work, tmp_path):
    command(work, "comparison", "--tasks", "sst2", "--recipes", "plain")
    runs = [study.Run("plain", "sst2", 1, seed) for seed in QUICK.seeds]
    revisions = [quick_study(work).record(one)["teacher"]["revision"] for one in runs]
    assert len(set(revisions)) == len(runs)
    shutil.copytree(work / "results", tmp_path / "results")  # without any teacher
    assert quick_study(tmp_path).missing(runs) == []
    content, _ = assert_written(work, "comparison")
    assert len(content["tasks"]["sst2"]["teacher"]["accuracy"]["values"]) == len(runs)


def test_a_subset_is_the_same_at_every_time_and_held_out_data_is_not_trained_on(tmp_path):
    subsets = [load_splits(quick_study(tmp_path / name).data("sst2"))[0] for name in "ab"]
    assert len(subsets[0]) == 16
    assert list(subsets[0]["text"]) == list(subsets[1]["text"])
    whole = load_splits(DataArguments(task="sst2", data_dir=quick_study(tmp_path / "a").data_dir))[0]
    assert list(subsets[0]["text"]) != list(whole["text"][:16])  # not the head of the file

    train, held_out, _ = load_splits(quick_study(tmp_path / "a").data("sst2-held-out"))
    assert sorted([*train["text"], *held_out["text"]]) == sorted(whole["text"])


def test_two_processes_do_not_make_the_same_run(tmp_path):
    with study.claimed(tmp_path / "locks/run.lock") as first, study.claimed(tmp_path / "locks/run.lock") as second:
        assert (first, second) == (True, False)
    with study.claimed(tmp_path / "locks/run.lock") as again:
        assert again


def test_mistakes_are_named(work, tmp_path, capsys):
    assert command(work, "baseline", "--tasks", "imdb") == 2
    assert "its tasks sst2, stsb" in " ".join(capsys.readouterr().err.split())
    assert command(tmp_path, "baseline", "--teachers", str(tmp_path)) == 2
    assert "no teacher in" in capsys.readouterr().err


# --- reporting


def test_a_seed_of_two_teachers_is_not_reported():
    def record(revision):
        return {"teacher": {"revision": revision, "metrics": {"accuracy": 0.9}}}

    runs = [study.Run(recipe, "sst2", 3, seed) for recipe in ("plain", "ours") for seed in (0, 1)]
    made = dict(zip(runs, map(record, ("a", "b", "a", "b")), strict=True))
    assert [one["revision"] for one in report.teachers("sst2", made)] == ["a", "b"]
    assert report.teachers("mrpc", made) == []
    with pytest.raises(InputError, match=r"ours/sst2-3l-s1 is of the teacher c and other runs of its seed are of b"):
        report.teachers("sst2", made | {runs[3]: record("c")})


def test_mean_spread_and_resolution():
    made = [
        {"metrics": {"accuracy": value}, "teacher": {"metrics": {"accuracy": 0.9}}, "agreement": agreement}
        for value, agreement in ((0.8, 0.9), (0.9, 0.7))
    ]
    found = report.cell(made)
    assert found["metrics"]["accuracy"]["mean"] == pytest.approx(0.85)
    assert found["metrics"]["accuracy"]["sd"] == pytest.approx(0.1 / 2**0.5)  # of a sample, not of a population
    assert found["of_teacher"]["values"] == pytest.approx([8 / 9, 1])
    assert found["agreement"] == pytest.approx(0.8)
    assert report.spread([0.8])["sd"] is None
    assert report.COUNTED["accuracy"](0.9, 900) == pytest.approx(0.01)
    assert report.COUNTED["matthews_correlation"](0.0, 100) == pytest.approx(0.1)
    assert report.COUNTED["pearson"](0.5, 100) == pytest.approx(0.075)
