"""The metrics against values worked out by hand, without a network."""

import numpy as np
import pytest
from transformers import EvalPrediction

from tkd_hf import InputError
from tkd_hf.evaluation.fidelity import agreement
from tkd_hf.evaluation.metrics import METRICS, compute_metrics_for, entities, score
from tkd_hf.evaluation.predictions import labels_from_logits, predicted_labels


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
TOKENS = "token_classification"
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
    assert labels_from_logits(logits, SINGLE).tolist() == [1, 0]
    assert labels_from_logits(logits, MULTI).tolist() == [[0, 1], [1, 1]]
    assert labels_from_logits(logits[:, :1], REGRESSION).tolist() == [-1.0, 3.0]


def test_a_trainer_takes_them():
    prediction = EvalPrediction(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
    assert compute_metrics_for(("accuracy",), SINGLE)(prediction) == {"accuracy": 0.5}


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(InputError, match="unknown metric bleu; the metrics are accuracy, f1"):
        score(np.zeros((1, 2)), np.zeros(1), ("bleu",), SINGLE)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-A I-A O B-B", {("A", 1, 2), ("B", 4, 4)}),
        ("B-A B-A I-A", {("A", 0, 0), ("A", 1, 2)}),
        ("B-A I-B I-B", {("A", 0, 0), ("B", 1, 2)}),  # as CoNLL's script reads it
        ("O I-A O", {("A", 1, 1)}),
        ("S-A B-B I-B E-B I-B", {("A", 0, 0), ("B", 1, 3), ("B", 4, 4)}),
        ("A A O B A", {("A", 0, 1), ("B", 3, 3), ("A", 4, 4)}),
        ("O O", set()),
        ("", set()),
    ],
)
def test_entities_by_hand(tags, expected):
    assert entities(tags.split()) == expected


def test_entity_f1_by_hand():
    """Of three predicted entities one is right in span and type; there are two."""
    references = ["B-A I-A O B-B".split(), "O O".split()]
    predictions = ["B-A I-A O B-A".split(), "B-B O".split()]
    found = METRICS["entity_f1"]().compute(predictions=predictions, references=references)
    assert found == pytest.approx({"entity_f1": 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)})
    assert METRICS["entity_f1"]().compute(predictions=[["O"]], references=[["B-A"]]) == {"entity_f1": 0.0}


def test_only_tokens_that_count_are_scored():
    """Padded as the Trainer pads, and as lists of different lengths: codes 0 B-A, 1 I-A, 2 O."""
    names, labels = ("B-A", "I-A", "O"), [[-100, 0, -100, 1, -100], [-100, 2, -100]]
    answered = [[0, 0, 0, 1, 1], [0, 0, 0]]
    logits = [np.eye(3)[codes] for codes in answered]
    expected = pytest.approx({"accuracy": 2 / 3, "entity_f1": 2 / 3})
    assert score(logits, labels, ("accuracy", "entity_f1"), TOKENS, names) == expected
    padded = np.stack([logits[0], np.concatenate([logits[1], np.full((2, 3), -100.0)])])
    prediction = EvalPrediction(padded, np.array([labels[0], [*labels[1], -100, -100]]))
    assert compute_metrics_for(("accuracy", "entity_f1"), TOKENS, names)(prediction) == expected


def test_agreement_is_over_what_both_answered():
    assert agreement(np.array([0, 1, 1]), np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert agreement(np.array([[0, 1], [1, 1]]), np.array([[0, 1], [1, 0]])) == 0.5
    labels = [[-100, 0, 1], [2, -100, -100]]
    one, other = ([np.eye(3)[codes] for codes in lists] for lists in ([[0, 1, 1], [2, 0, 0]], [[2, 0, 1], [2, 1, 1]]))
    same = [predicted_labels(logits, labels, TOKENS) for logits in (one, other)]
    assert agreement(*same) == pytest.approx(2 / 3)
    assert agreement(same[0], [same[1][0][:1], same[1][1]]) == 1.0  # the first was cut by one of the two
    assert agreement(same[0], [codes[:0] for codes in same[1]]) is None
