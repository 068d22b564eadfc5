"""Calibration by hand."""

import numpy as np
import pytest

from tkd_hf.evaluation.calibration import calibration
from tkd_hf.evaluation.predictions import Predictions


def logits_of(probability):
    """Of two classes, the first with that probability."""
    return [np.log(probability), np.log(1 - probability)]


def test_the_error_is_the_mean_gap_weighed_by_counts():
    """Three answers of 0.9, two right; one of 0.6, wrong."""
    logits = np.array([logits_of(0.9)] * 3 + [logits_of(0.6)])
    found = calibration(Predictions(logits, np.array([0, 0, 1, 1]), "single_label_classification"))
    assert found.error == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.6)
    assert [part["count"] for part in found.bins] == [1, 3]
    assert found.bins[1]["confidence"] == pytest.approx(0.9)
    assert found.bins[1]["accuracy"] == pytest.approx(2 / 3)
    assert all(part["from"] < part["confidence"] <= part["to"] for part in found.bins)


def test_who_is_always_sure_and_right_is_calibrated():
    found = calibration(Predictions(np.array([[50.0, -50]] * 4), np.zeros(4, int), "single_label_classification"))
    assert found.error == pytest.approx(0)
    assert found.bins[-1]["to"] == 1


def test_of_several_labels_each_is_a_decision():
    """Probabilities ¾ and ¼ are both decided with ¾; one of the two is right."""
    logits = np.array([[np.log(3), -np.log(3)]])
    found = calibration(Predictions(logits, np.array([[1.0, 1.0]]), "multi_label_classification"))
    assert found.bins[0]["count"] == 2
    assert found.error == pytest.approx(0.25)


def test_of_tokens_only_those_that_count():
    logits = [np.array([[9.0, 0], [0, 9], [0, 9]])]
    found = calibration(Predictions(logits, [[0, 0, -100]], "token_classification"))
    assert sum(part["count"] for part in found.bins) == 2
    assert found.bins[-1]["accuracy"] == 0.5


def test_scores_have_none():
    assert calibration(Predictions(np.array([[1.0]]), np.array([1.0]), "regression")) is None
