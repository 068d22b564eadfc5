"""Tables of results hold values and write each quantity in one form; results read from JSON equal those written."""

import json

import pytest

from tkd_hf import InputError
from tkd_hf.evaluation.calibration import Calibration
from tkd_hf.evaluation.columns import Estimate, Speedup
from tkd_hf.evaluation.fidelity import ClassChange, Fidelity
from tkd_hf.evaluation.results import Evaluation, ModelResult
from tkd_hf.evaluation.tables import comparison_table, evaluation_tables, stage_table
from tkd_hf.inference.memory import Parameters
from tkd_hf.records.run_folder import StageRecord


def model_result(name: str, value: float, **fields) -> ModelResult:
    interval = (value - 0.125, value + 0.125)
    sizes = {"parameters": Parameters(1_000_000, 2_000_000), "megabytes": 12.0, "milliseconds": 4.0}
    calibration = Calibration(0.0625)
    return ModelResult(name, "pytorch", {"accuracy": value}, {"accuracy": interval}, calibration, **sizes, **fields)


def evaluation() -> Evaluation:
    classes = [ClassChange("[spam]", 4, 1.0, 0.5)]
    change = {"accuracy": {"change": -0.125, "interval": (-0.25, 0.0)}}
    of_student = Fidelity(0.875, 0.25, 2, 1, 1.0, classes)
    student = model_result("student", 0.75, fidelity=of_student, changes=change)
    return Evaluation("sst2", "validation", 8, [model_result("teacher", 0.875), student])


def test_evaluation_tables_hold_values_and_write_them_in_one_form():
    quality, recalls, decisions = evaluation_tables(evaluation())
    assert quality.title == "sst2 (8)"
    assert [column.heading for column in quality.columns][1:4] == [
        "accuracy",
        "agreement with the teacher",
        "KL divergence",
    ]
    assert quality.rows[1][1] == Estimate(0.75, (0.625, 0.875))
    teacher, student = quality.cells()
    assert teacher == ["teacher", "0.8750 (0.750–1.000)", "–", "–", "0.0625", "3.0 M", "12.0", "4.00"]
    assert student[1:4] == ["0.7500 (0.625–0.875)", "0.8750", "0.2500"]
    assert list(recalls.cells()) == [["[spam]", "4", "1.0000", "0.5000", "-0.5000"]]
    assert decisions.rows == [("examples", 2, 1, 1.0)]


def test_comparison_with_the_teacher_has_a_row_for_the_difference():
    rows = list(comparison_table(evaluation()).cells())
    assert rows[2] == ["difference (this model − teacher)", "-0.1250 (-0.250 to +0.000)", ""]


def test_speedup_is_written_with_its_interval_and_the_reference_by_its_name():
    assert [str(Speedup(2, (1.5, 2.5))), str(Speedup(2)), str(Speedup(1, is_reference=True))] == [
        "2.00× (1.50–2.50)",
        "2.00×",
        "reference",
    ]


@pytest.mark.parametrize(
    ("stage", "inputs", "partner"),
    [
        ("distill", {"teacher": "org/t", "teacher_revision": "commit-1"}, "the teacher"),
        ("distill", {"teacher": ["a", "b"], "teacher_revision": ["1", "2"]}, "the teacher"),
        ("prune", {"model": "m", "model_revision": "1", "teacher": "t", "teacher_revision": "2"}, "the teacher"),
        (
            "prune",
            {"model": "m", "model_revision": "1", "teacher": "m", "teacher_revision": "1"},
            "the model before this stage",
        ),
        ("quantize", {"model": "m", "model_revision": "1"}, "the float model"),
    ],
)
def test_agreement_of_a_stage_says_with_whom(stage, inputs, partner):
    """Pruning without a teacher compares the model with itself, which says nothing about the teacher that it had."""
    record = StageRecord(stage, inputs, {}, metrics={"accuracy": 0.75, "agreement": 0.875}, seconds=1.5)
    table = stage_table("runs/x", record)
    assert table.columns[2].heading == f"agreement with {partner}"
    assert list(table.cells()) == [["runs/x", "0.7500", "0.8750", "1.5"]]


def test_results_read_from_json_equal_those_written():
    stored = json.dumps(evaluation().to_dict())
    results = Evaluation.from_dict(json.loads(stored))
    assert json.dumps(results.to_dict()) == stored
    assert results.models[1].fidelity == evaluation().models[1].fidelity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": None}, "Evaluation.models is None instead of list"),
        ({"examples": "8"}, "Evaluation.examples is '8' instead of int"),
        ({"models": [{"name": "x"}]}, "Evaluation.models\\[0\\].backend is missing"),
        ({"models": [[]]}, "Evaluation.models\\[0\\] is \\[\\] instead of an object"),
    ],
)
def test_foreign_json_is_refused_by_field(change, message):
    with pytest.raises(InputError, match=message):
        Evaluation.from_dict(evaluation().to_dict() | change)
