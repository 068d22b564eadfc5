"""Fidelity by hand."""

import numpy as np
import pytest
from scipy.stats import entropy

from tkd_hf.evaluation.fidelity import disagreements, fidelity
from tkd_hf.evaluation.predictions import Predictions


CLASSES, SEVERAL, TOKENS = "single_label_classification", "multi_label_classification", "token_classification"
LABELS = np.array([0, 1, 1, 0])


def of_classes(*answers, labels=LABELS):
    return Predictions(np.array([[2.0, 0.0] if answer == 0 else [0.0, 2.0] for answer in answers]), labels, CLASSES)


def test_of_classes():
    found = fidelity(of_classes(0, 1, 1, 1), of_classes(0, 0, 1, 0), ("no", "yes"))
    assert found.agreement == 0.5
    assert (found.teacher_only, found.model_only) == (1, 1)
    assert found.p_value == 1
    no, yes = found.classes
    assert (no.name, no.examples, no.teacher, no.model, no.change) == ("no", 2, 0.5, 1.0, 0.5)
    assert (yes.name, yes.examples, yes.teacher, yes.model, yes.change) == ("yes", 2, 1.0, 0.5, -0.5)
    one = np.exp([2.0, 0]) / np.exp([2.0, 0]).sum()
    assert found.kl == pytest.approx(entropy(one, one[::-1]) / 2)


def test_a_class_without_examples_has_no_recall():
    found = fidelity(of_classes(0, labels=LABELS[:1]), of_classes(1, labels=LABELS[:1]), ("no", "yes"))
    assert (found.classes[1].examples, found.classes[1].teacher, found.classes[1].change) == (0, None, None)


def test_of_several_labels():
    labels = np.array([[1.0, 0.0], [0.0, 0.0]])
    teacher = Predictions(np.array([[2.0, -2], [-2, -2]]), labels, SEVERAL)
    model = Predictions(np.array([[2.0, -2], [-2, 2]]), labels, SEVERAL)
    found = fidelity(teacher, model, ("a", "b"))
    assert found.agreement == 0.5
    assert (found.teacher_only, found.model_only) == (1, 0)
    p = 1 / (1 + np.exp(-2.0))
    assert found.kl == pytest.approx(entropy([p, 1 - p], [1 - p, p]) / 2)
    assert [row.examples for row in found.classes] == [1, 0]


def test_of_tokens_only_those_that_count_and_that_both_read():
    labels = [[0, 1, -100], [0]]
    teacher = Predictions([np.array([[1.0, 0], [0, 1], [5, 0]]), np.array([[1.0, 0]])], labels, TOKENS)
    model = Predictions([np.array([[1.0, 0], [1, 0], [0, 5]]), np.array([[1.0, 0]])], labels, TOKENS)
    found = fidelity(teacher, model, ("X", "Y"))
    assert found.agreement == pytest.approx(2 / 3)
    assert (found.teacher_only, found.model_only) == (1, 0)
    assert [row.examples for row in found.classes] == [2, 1]
    shorter = Predictions([model.logits[0][:1], model.logits[1]], [[0], [0]], TOKENS)
    assert fidelity(teacher, shorter, ("X", "Y")).agreement == 1  # the second example alone


def test_of_scores():
    labels = np.array([1.0, 2.0, 3.0])
    teacher = Predictions(np.array([[1.0], [2.0], [4.0]]), labels, "regression")
    model = Predictions(np.array([[1.5], [2.5], [4.5]]), labels, "regression")
    found = fidelity(teacher, model)
    assert (found.pearson, found.difference, found.agreement, found.p_value) == (pytest.approx(1), 0.5, None, None)


def test_disagreements_begin_with_the_most_confident():
    teacher = of_classes(0, 1, 1, 1)
    model = Predictions(np.array([[0.0, 1.0], [3.0, 0.0], [0.0, 1.0], [0.0, 9.0]]), LABELS, CLASSES)
    rows = [{"text": name} for name in "abcd"]
    found = disagreements(teacher, model, rows, ("no", "yes"))
    assert [row["text"] for row in found] == ["b", "a"]
    assert found[0] == {
        "text": "b",
        "label": "yes",
        "teacher": "yes",
        "teacher_confidence": 0.8808,
        "model": "no",
        "model_confidence": 0.9526,
    }


def test_disagreements_of_scores_begin_with_the_farthest_apart():
    labels = np.array([1.0, 2.0])
    teacher = Predictions(np.array([[1.0], [2.0]]), labels, "regression")
    model = Predictions(np.array([[1.5], [4.0]]), labels, "regression")
    found = disagreements(teacher, model, [{"text": "a"}, {"text": "b"}])
    assert [(row["text"], row["teacher"], row["model"]) for row in found] == [("b", 2.0, 4.0), ("a", 1.0, 1.5)]
    assert "model_confidence" not in found[0]


def test_disagreements_of_tokens_and_of_several_labels_are_named():
    teacher = Predictions([np.array([[1.0, 0], [0, 1]])], [[0, 1]], TOKENS)
    model = Predictions([np.array([[1.0, 0], [1, 0]])], [[0, 1]], TOKENS)
    (found,) = disagreements(teacher, model, [{"text": ["u", "v"]}], ("X", "Y"))
    assert (found["label"], found["teacher"], found["model"]) == (["X", "Y"], ["X", "Y"], ["X", "X"])
    labels = np.array([[1.0, 0.0]])
    one, other = (Predictions(np.array([logits]), labels, SEVERAL) for logits in ([2.0, 1.0], [2.0, -1.0]))
    (found,) = disagreements(one, other, [{"text": "u"}], ("a", "b"))
    assert (found["label"], found["teacher"], found["model"]) == (["a"], ["a", "b"], ["a"])
    assert found["model_confidence"] == pytest.approx(0.7311)
