"""Fidelity and disagreements against values computed by hand, for every problem type."""

import numpy as np
import pytest
from scipy.stats import entropy

from tkd_hf.evaluation.fidelity import disagreements, fidelity
from tkd_hf.evaluation.predictions import Predictions


CLASSES, SEVERAL, TOKENS = "single_label_classification", "multi_label_classification", "token_classification"
LABELS = np.array([0, 1, 1, 0])


def predictions_of(*classes, labels=LABELS):
    return Predictions(np.array([[2.0, 0.0] if code == 0 else [0.0, 2.0] for code in classes]), labels, CLASSES)


def test_fidelity_of_classes_equals_values_by_hand():
    result = fidelity(predictions_of(0, 1, 1, 1), predictions_of(0, 0, 1, 0), ("no", "yes"))
    assert result.agreement == 0.5
    assert (result.teacher_only, result.model_only) == (1, 1)
    assert result.p_value == 1
    no, yes = result.classes
    assert (no.name, no.examples, no.teacher, no.model, no.change) == ("no", 2, 0.5, 1.0, 0.5)
    assert (yes.name, yes.examples, yes.teacher, yes.model, yes.change) == ("yes", 2, 1.0, 0.5, -0.5)
    distribution = np.exp([2.0, 0]) / np.exp([2.0, 0]).sum()
    assert result.kl == pytest.approx(entropy(distribution, distribution[::-1]) / 2)


def test_a_class_without_examples_has_no_recall():
    result = fidelity(predictions_of(0, labels=LABELS[:1]), predictions_of(1, labels=LABELS[:1]), ("no", "yes"))
    assert (result.classes[1].examples, result.classes[1].teacher, result.classes[1].change) == (0, None, None)


def test_fidelity_of_several_labels_requires_all_labels_of_an_example():
    labels = np.array([[1.0, 0.0], [0.0, 0.0]])
    teacher = Predictions(np.array([[2.0, -2], [-2, -2]]), labels, SEVERAL)
    model = Predictions(np.array([[2.0, -2], [-2, 2]]), labels, SEVERAL)
    result = fidelity(teacher, model, ("a", "b"))
    assert result.agreement == 0.5
    assert (result.teacher_only, result.model_only) == (1, 0)
    p = 1 / (1 + np.exp(-2.0))
    assert result.kl == pytest.approx(entropy([p, 1 - p], [1 - p, p]) / 2)
    assert [row.examples for row in result.classes] == [1, 0]


def test_fidelity_of_tokens_covers_labelled_tokens_that_both_models_read():
    labels = [[0, 1, -100], [0]]
    teacher = Predictions([np.array([[1.0, 0], [0, 1], [5, 0]]), np.array([[1.0, 0]])], labels, TOKENS)
    model = Predictions([np.array([[1.0, 0], [1, 0], [0, 5]]), np.array([[1.0, 0]])], labels, TOKENS)
    result = fidelity(teacher, model, ("X", "Y"))
    assert result.agreement == pytest.approx(2 / 3)
    assert (result.teacher_only, result.model_only) == (1, 0)
    assert [row.examples for row in result.classes] == [2, 1]
    shorter = Predictions([model.logits[0][:1], model.logits[1]], [[0], [0]], TOKENS)
    assert fidelity(teacher, shorter, ("X", "Y")).agreement == 1  # only the second example can be compared


def test_fidelity_of_scores_is_correlation_and_mean_difference():
    labels = np.array([1.0, 2.0, 3.0])
    teacher = Predictions(np.array([[1.0], [2.0], [4.0]]), labels, "regression")
    model = Predictions(np.array([[1.5], [2.5], [4.5]]), labels, "regression")
    result = fidelity(teacher, model)
    assert (result.pearson, result.difference, result.agreement, result.p_value) == (pytest.approx(1), 0.5, None, None)


def test_disagreements_begin_with_the_most_confident():
    teacher = predictions_of(0, 1, 1, 1)
    model = Predictions(np.array([[0.0, 1.0], [3.0, 0.0], [0.0, 1.0], [0.0, 9.0]]), LABELS, CLASSES)
    rows = [{"text": text} for text in "abcd"]
    entries = disagreements(teacher, model, rows, ("no", "yes"))
    assert [entry["text"] for entry in entries] == ["b", "a"]
    assert entries[0] == {
        "text": "b",
        "label": "yes",
        "teacher": "yes",
        "teacher_confidence": 0.8808,
        "model": "no",
        "model_confidence": 0.9526,
    }


def test_disagreements_of_scores_begin_with_the_largest_difference():
    labels = np.array([1.0, 2.0])
    teacher = Predictions(np.array([[1.0], [2.0]]), labels, "regression")
    model = Predictions(np.array([[1.5], [4.0]]), labels, "regression")
    entries = disagreements(teacher, model, [{"text": "a"}, {"text": "b"}])
    assert [(entry["text"], entry["teacher"], entry["model"]) for entry in entries] == [
        ("b", 2.0, 4.0),
        ("a", 1.0, 1.5),
    ]
    assert "model_confidence" not in entries[0]


def test_disagreements_of_tokens_and_of_several_labels_list_label_names():
    teacher = Predictions([np.array([[1.0, 0], [0, 1]])], [[0, 1]], TOKENS)
    model = Predictions([np.array([[1.0, 0], [1, 0]])], [[0, 1]], TOKENS)
    (entry,) = disagreements(teacher, model, [{"text": ["u", "v"]}], ("X", "Y"))
    assert (entry["label"], entry["teacher"], entry["model"]) == (["X", "Y"], ["X", "Y"], ["X", "X"])
    labels = np.array([[1.0, 0.0]])
    teacher, model = (Predictions(np.array([logits]), labels, SEVERAL) for logits in ([2.0, 1.0], [2.0, -1.0]))
    (entry,) = disagreements(teacher, model, [{"text": "u"}], ("a", "b"))
    assert (entry["label"], entry["teacher"], entry["model"]) == (["a"], ["a", "b"], ["a"])
    assert entry["model_confidence"] == pytest.approx(0.7311)
