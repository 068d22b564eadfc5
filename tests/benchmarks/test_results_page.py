"""The results page, README's table and the cards say what the result files say."""

import json
from pathlib import Path

import pytest

import cards
import results_page
import results_tables


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
    accuracy = {(row["seed"], row["model"]): row["accuracy"] for row in results_tables.rows_of("family", "quickstart")}
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
