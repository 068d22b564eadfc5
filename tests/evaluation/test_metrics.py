"""The metrics against values worked out by hand, without a network."""

import numpy as np
import pytest
from transformers import EvalPrediction

from tkd_hf import InputError
from tkd_hf.evaluation.metrics import METRICS, compute_metrics_for, decide, score


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
# true positives 2, false positives 1, false negatives 1, true negatives 4
REFERENCES, PREDICTIONS = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 6 / 8),
        ("f1", 2 / 3),
        ("f1_macro", (2 / 3 + 4 / 5) / 2),
        ("f1_micro", 6 / 8),
        ("matthews_correlation", (2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5)),
    ],
)
def test_class_metrics_by_hand(name, expected):
    assert METRICS[name]().compute(predictions=PREDICTIONS, references=REFERENCES)[name] == pytest.approx(expected)


def test_correlations_by_hand():
    found = score(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0]), ("pearson", "spearman"), REGRESSION)
    assert found == pytest.approx({"pearson": 3 / np.sqrt(28 / 3), "spearman": 1.0})


def test_several_labels_by_hand():
    logits, labels = np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[1, 0], [0, 1]])
    found = score(logits, labels, ("f1_micro", "f1_macro"), MULTI)
    assert found == pytest.approx({"f1_micro": 4 / 5, "f1_macro": (2 / 3 + 1) / 2})


@pytest.mark.parametrize(("name", "kind"), [("f1", SINGLE), ("matthews_correlation", SINGLE), ("pearson", REGRESSION)])
def test_a_constant_predictor_scores_zero_without_a_warning(name, kind):
    logits = np.array([[1.0, 0.0]] * 4) if kind == SINGLE else np.ones((4, 1))
    assert score(logits, np.array([0, 1, 0, 1]), (name,), kind) == {name: 0.0}


def test_answers_by_problem_type():
    logits = np.array([[-1.0, 2.0], [3.0, 0.5]])
    assert decide(logits, SINGLE).tolist() == [1, 0]
    assert decide(logits, MULTI).tolist() == [[0, 1], [1, 1]]
    assert decide(logits[:, :1], REGRESSION).tolist() == [-1.0, 3.0]


def test_a_trainer_takes_them():
    prediction = EvalPrediction(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
    assert compute_metrics_for(("accuracy",), SINGLE)(prediction) == {"accuracy": 0.5}


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(InputError, match="unknown metric bleu; the metrics are accuracy, f1"):
        score(np.zeros((1, 2)), np.zeros(1), ("bleu",), SINGLE)
