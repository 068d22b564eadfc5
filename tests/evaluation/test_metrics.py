"""Metrics, agreement, calibration and the gate equal values computed by hand and by scipy."""

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from huggingface_hub import ModelCard
from scipy.stats import entropy
from transformers import EvalPrediction

from tkd_hf import DataArguments, InputError, report
from tkd_hf.cards.generate import card
from tkd_hf.core.errors import GateFailed
from tkd_hf.data.tasks import TASKS
from tkd_hf.evaluation.calibration import calibration
from tkd_hf.evaluation.fidelity import agreement, disagreements, fidelity
from tkd_hf.evaluation.metrics import (
    METRICS,
    TextMetric,
    compute_metrics_for,
    entities,
    metric_functions,
    register_metric,
    score,
)
from tkd_hf.evaluation.predictions import Predictions, labels_from_logits, predicted_labels
from tkd_hf.evaluation.results import check_drop

from ..factories import build_tokenizer, distilled, run_folder


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
def test_class_metrics_equal_values_by_hand(name, expected):
    assert METRICS[name]().compute(predictions=PREDICTIONS, references=REFERENCES)[name] == pytest.approx(expected)


def test_correlations_equal_values_by_hand():
    results = score(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0]), ("pearson", "spearman"), REGRESSION)
    assert results == pytest.approx({"pearson": 3 / np.sqrt(28 / 3), "spearman": 1.0})


def test_f1_of_several_labels_equals_values_by_hand():
    logits, labels = np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[1, 0], [0, 1]])
    results = score(logits, labels, ("f1_micro", "f1_macro"), MULTI)
    assert results == pytest.approx({"f1_micro": 4 / 5, "f1_macro": (2 / 3 + 1) / 2})


@pytest.mark.parametrize(
    ("name", "problem_type"), [("f1", SINGLE), ("matthews_correlation", SINGLE), ("pearson", REGRESSION)]
)
def test_a_constant_predictor_scores_zero_without_a_warning(name, problem_type):
    logits = np.array([[1.0, 0.0]] * 4) if problem_type == SINGLE else np.ones((4, 1))
    assert score(logits, np.array([0, 1, 0, 1]), (name,), problem_type) == {name: 0.0}


def test_predicted_labels_depend_on_the_problem_type():
    logits = np.array([[-1.0, 2.0], [3.0, 0.5]])
    assert labels_from_logits(logits, SINGLE).tolist() == [1, 0]
    assert labels_from_logits(logits, MULTI).tolist() == [[0, 1], [1, 1]]
    assert labels_from_logits(logits[:, :1], REGRESSION).tolist() == [-1.0, 3.0]


def test_compute_metrics_for_takes_the_predictions_of_a_trainer():
    prediction = EvalPrediction(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
    assert compute_metrics_for(("accuracy",), SINGLE)(prediction) == {"accuracy": 0.5}


def test_an_unknown_metric_is_refused_with_the_names_of_all_metrics():
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
def test_entities_are_read_from_every_tagging_scheme(tags, expected):
    assert entities(tags.split()) == expected


def test_entity_f1_equals_the_value_by_hand():
    """One of three predicted entities is correct in span and type, and the references hold two entities."""
    references = ["B-A I-A O B-B".split(), "O O".split()]
    predictions = ["B-A I-A O B-A".split(), "B-B O".split()]
    result = METRICS["entity_f1"]().compute(predictions=predictions, references=references)
    assert result == pytest.approx({"entity_f1": 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)})
    assert METRICS["entity_f1"]().compute(predictions=[["O"]], references=[["B-A"]]) == {"entity_f1": 0.0}


def test_only_labelled_tokens_are_scored():
    """Logits may be padded, as by the Trainer, or lists of different lengths."""
    names, labels = ("B-A", "I-A", "O"), [[-100, 0, -100, 1, -100], [-100, 2, -100]]
    predicted = [[0, 0, 0, 1, 1], [0, 0, 0]]
    logits = [np.eye(3)[codes] for codes in predicted]
    expected = pytest.approx({"accuracy": 2 / 3, "entity_f1": 2 / 3})
    assert score(logits, labels, ("accuracy", "entity_f1"), TOKENS, names) == expected
    padded = np.stack([logits[0], np.concatenate([logits[1], np.full((2, 3), -100.0)])])
    prediction = EvalPrediction(padded, np.array([labels[0], [*labels[1], -100, -100]]))
    assert compute_metrics_for(("accuracy", "entity_f1"), TOKENS, names)(prediction) == expected


def test_agreement_covers_the_labelled_tokens_that_both_models_read():
    assert agreement(np.array([0, 1, 1]), np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert agreement(np.array([[0, 1], [1, 1]]), np.array([[0, 1], [1, 0]])) == 0.5
    labels = [[-100, 0, 1], [2, -100, -100]]
    first, second = (
        predicted_labels([np.eye(3)[codes] for codes in example_codes], labels, TOKENS)
        for example_codes in ([[0, 1, 1], [2, 0, 0]], [[2, 0, 1], [2, 1, 1]])
    )
    assert agreement(first, second) == pytest.approx(2 / 3)
    assert agreement(first, [second[0][:1], second[1]]) == 1.0  # the second model truncated the first example
    assert agreement(first, [codes[:0] for codes in second]) is None


def logits_of(probability):
    """Return the logits of two classes, of which the first has this probability."""
    return [np.log(probability), np.log(1 - probability)]


def test_calibration_error_is_the_mean_gap_weighted_by_counts():
    """Three predictions have a confidence of 0.9, two of them correct; one has 0.6 and is wrong."""
    logits = np.array([logits_of(0.9)] * 3 + [logits_of(0.6)])
    result = calibration(Predictions(logits, np.array([0, 0, 1, 1]), SINGLE))
    assert result.error == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.6)
    assert [part["count"] for part in result.bins] == [1, 3]
    assert result.bins[1]["confidence"] == pytest.approx(0.9)
    assert result.bins[1]["accuracy"] == pytest.approx(2 / 3)
    assert all(part["from"] < part["confidence"] <= part["to"] for part in result.bins)


def test_a_model_that_is_always_sure_and_correct_is_calibrated():
    result = calibration(Predictions(np.array([[50.0, -50]] * 4), np.zeros(4, int), SINGLE))
    assert result.error == pytest.approx(0)
    assert result.bins[-1]["to"] == 1


def test_calibration_of_several_labels_counts_each_label_as_a_decision():
    """The probabilities ¾ and ¼ are both decided with a confidence of ¾, and one decision is correct."""
    logits = np.array([[np.log(3), -np.log(3)]])
    result = calibration(Predictions(logits, np.array([[1.0, 1.0]]), MULTI))
    assert result.bins[0]["count"] == 2
    assert result.error == pytest.approx(0.25)


def test_calibration_of_tokens_covers_labelled_tokens_alone():
    logits = [np.array([[9.0, 0], [0, 9], [0, 9]])]
    result = calibration(Predictions(logits, [[0, 0, -100]], TOKENS))
    assert sum(part["count"] for part in result.bins) == 2
    assert result.bins[-1]["accuracy"] == 0.5


def test_scores_have_no_calibration():
    assert calibration(Predictions(np.array([[1.0]]), np.array([1.0]), REGRESSION)) is None


@pytest.mark.parametrize("value", [0.9, 0.895, 0.95])
def test_the_gate_passes_a_drop_up_to_the_maximum(value):
    check_drop(0.9, value, 0.005, "accuracy", "the teacher")


def test_the_gate_says_by_how_much_it_was_missed():
    with pytest.raises(GateFailed) as missed:
        check_drop(0.9, 0.89, 0.005, "accuracy", "the teacher")
    assert str(missed.value) == (
        "the gate was missed by 0.0050: accuracy 0.8900 is 0.0100 below the teacher (0.9000), and max_drop allows 0.005"
    )


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


@pytest.mark.parametrize("numbers", [(0.9, nan, 0.5), (nan, 0.9, 0.5), (0.9, 0.9, nan), (0.9, 0.9, inf), (-inf, 0, 1)])
def test_the_gate_fails_numbers_that_are_not_finite(numbers):
    with pytest.raises(GateFailed, match="not finite never passes"):
        check_drop(*numbers, "accuracy", "the teacher")


# --- a metric from outside the package ------------------------------------------------------------------------------


@pytest.fixture
def brier(extension):
    """Register the metric of docs/extending.md: the mean squared distance between probabilities and the true class."""
    return extension("Add a metric").Brier


# the probabilities of the first class are 0.9, 0.9 and 0.6, and the true classes are the first, second and first
BRIER_LOGITS, BRIER_LABELS = np.array([logits_of(0.9), logits_of(0.9), logits_of(0.6)]), np.array([0, 1, 0])
BRIER = 2 * (0.1**2 + 0.9**2 + 0.4**2) / 3


@pytest.mark.usefixtures("brier")
def test_a_metric_of_probabilities_equals_the_value_by_hand():
    assert score(BRIER_LOGITS, BRIER_LABELS, ("brier",), CLASSES) == {"brier": pytest.approx(BRIER)}
    (function,) = metric_functions(Predictions(BRIER_LOGITS, BRIER_LABELS, CLASSES), ("brier",))
    assert function(np.array([0, 0, 2])) == pytest.approx(2 * (0.1**2 + 0.1**2 + 0.4**2) / 3)
    tokens = Predictions([BRIER_LOGITS[:2], BRIER_LOGITS[1:]], [[0, 1], [-100, 0]], TOKENS)
    (function,) = metric_functions(tokens, ("brier",))
    assert function(np.array([0, 1])) == pytest.approx(BRIER)


@pytest.mark.usefixtures("brier")
def test_a_metric_is_refused_for_other_problem_types_with_those_that_fit():
    with pytest.raises(InputError, match=r"brier cannot measure regression; the metrics for that are pearson, spear"):
        score(np.ones((2, 1)), np.ones(2), ("brier",), REGRESSION)


def test_a_metric_without_a_name_or_a_function_cannot_be_registered():
    with pytest.raises(ValueError, match="Nameless needs a label and a score"):
        register_metric(type("Nameless", (TextMetric,), {}))


@pytest.mark.usefixtures("brier")
def test_the_gate_refuses_a_rise_of_a_metric_of_which_less_is_better():
    check_drop(0.2, 0.1, 0.01, "brier", "the teacher")
    with pytest.raises(GateFailed, match=r"missed by 0.0900: brier 0.3000 is 0.1000 above the teacher \(0.2000\)"):
        check_drop(0.2, 0.3, 0.01, "brier", "the teacher")


@pytest.mark.usefixtures("brier", "no_processes")
def test_a_metric_from_outside_reaches_evaluation_gate_report_and_card(monkeypatch, tmp_path, sst2_dir, teacher):
    """The metric is one class and one decorator; a task names it."""
    monkeypatch.setitem(TASKS, "sst2", replace(TASKS["sst2"], metrics=("brier", "accuracy")))
    run_folder(tmp_path / "student", distilled())
    teacher.save_pretrained(tmp_path / "teacher")
    build_tokenizer().save_pretrained(tmp_path / "teacher")
    data = DataArguments(task="sst2", data_dir=str(sst2_dir))
    models, folder = [str(tmp_path / "student")], tmp_path / "report"
    measured = report(models, folder, data, str(tmp_path / "teacher"), rounds=1, batch_sizes=(1,), lengths=(8,))
    student = measured.evaluation.models[1]
    low, high = student.intervals["brier"]
    assert 0 < low <= student.metrics["brier"] <= high < 2
    assert student.metrics["brier"] < measured.evaluation.models[0].metrics["brier"]
    measured.evaluation.check_drop(0.0)  # less is better
    value = f"{student.metrics['brier']:.4f} ({low:.3f}–{high:.3f})"
    assert value in (folder / "report.md").read_text(encoding="utf-8")
    page = card(models[0], folder)
    assert f"| {value} |" in page
    metadata = ModelCard.load(tmp_path / "student" / "README.md").data
    assert metadata.metrics == ["brier", "accuracy"]
