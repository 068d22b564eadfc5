"""GLUE's metrics as `evaluate.Metric`s that need no network, and the `compute_metrics` that a Trainer takes."""

from collections.abc import Callable

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ..errors import InputError


class TextMetric(evaluate.Metric):
    """One score of predictions against references: class codes, scores, or multi-hot lists (config `multilabel`).

    `evaluate.load` would fetch a script from the Hub at run time; these are the same figures, computed here.

    Example:

    ```python
    >>> from tkd_hf.evaluation.metrics import METRICS
    >>> METRICS["accuracy"]().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
    {'accuracy': 0.75}

    ```
    """

    label = ""
    value = datasets.Value("int64")

    def _info(self):
        feature = datasets.Sequence(self.value) if self.config_name == "multilabel" else self.value
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(self, predictions, references):
        return {self.label: float(self.score(np.asarray(references), np.asarray(predictions)))}


class Accuracy(TextMetric):
    """Share of predictions that equal the reference."""

    label = "accuracy"
    score = staticmethod(accuracy_score)


class F1(TextMetric):
    """F1 of class 1, as GLUE reports it for MRPC and QQP; 0 where nothing was predicted."""

    label = "f1"

    @staticmethod
    def score(references, predictions):
        return f1_score(references, predictions, zero_division=0)


class F1Macro(TextMetric):
    """Mean of the classes' F1."""

    label = "f1_macro"

    @staticmethod
    def score(references, predictions):
        return f1_score(references, predictions, average="macro", zero_division=0)


class F1Micro(TextMetric):
    """F1 over all decisions, for several labels an example."""

    label = "f1_micro"

    @staticmethod
    def score(references, predictions):
        return f1_score(references, predictions, average="micro", zero_division=0)


class MatthewsCorrelation(TextMetric):
    """Matthews' correlation coefficient, CoLA's metric; 0 where all predictions are one class."""

    label = "matthews_correlation"
    score = staticmethod(matthews_corrcoef)


class Pearson(TextMetric):
    """Pearson's correlation of scores, one of STS-B's two; 0 where a side is constant."""

    label = "pearson"
    value = datasets.Value("float64")

    @staticmethod
    def score(references, predictions):
        return _correlation(pearsonr, references, predictions)


class Spearman(TextMetric):
    """Spearman's rank correlation of scores, the other of STS-B's two; 0 where a side is constant."""

    label = "spearman"
    value = datasets.Value("float64")

    @staticmethod
    def score(references, predictions):
        return _correlation(spearmanr, references, predictions)


def _correlation(statistic: Callable, references: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return 0.0  # undefined; a constant predictor has learned nothing
    return statistic(references, predictions).statistic


METRICS = {metric.label: metric for metric in (Accuracy, F1, F1Macro, F1Micro, MatthewsCorrelation, Pearson, Spearman)}


def decide(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """What a model answers: the class of the largest logit, every label above 0 (probability ½), or the score itself.

    Args:
        logits: (examples, labels).
        problem_type: as in `transformers`.
    """
    if problem_type == "regression":
        return logits.squeeze(-1)
    if problem_type == "multi_label_classification":
        return (logits > 0).astype(np.int64)
    return logits.argmax(-1)


def score(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...], problem_type: str) -> dict[str, float]:
    """The named metrics of logits against labels.

    Args:
        logits: (examples, labels).
        labels: (examples,) codes or scores, or (examples, labels) multi-hot.
        names: keys of `METRICS`.
        problem_type: as in `transformers`.

    Raises:
        InputError: for a metric that is not among `METRICS`.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"unknown metric {', '.join(unknown)}; the metrics are {', '.join(METRICS)}")
    config = "multilabel" if problem_type == "multi_label_classification" else None
    predictions, results = decide(logits, problem_type), {}
    for name in names:
        results |= METRICS[name](config_name=config).compute(predictions=predictions, references=labels)
    return results


def agreement(answers: np.ndarray, others: np.ndarray) -> float:
    """Share of examples on which two models answer alike; with several labels an example, in all of them.

    Args:
        answers, others: what `decide` gives for classes.
    """
    same = answers == others
    return float(same.reshape(len(same), -1).all(axis=1).mean())


def compute_metrics_for(names: tuple[str, ...], problem_type: str) -> Callable:
    """The function that `transformers.Trainer` takes as `compute_metrics`."""
    return lambda prediction: score(prediction.predictions, prediction.label_ids, names, problem_type)


def compute_agreement_for(problem_type: str) -> Callable:
    """As `compute_metrics_for`, where the references are a teacher's answers: agreement, or correlation of scores."""

    def compute(prediction) -> dict[str, float]:
        if problem_type == "regression":
            found = score(prediction.predictions, prediction.label_ids, ("pearson", "spearman"), problem_type)
            return {f"teacher_{name}": value for name, value in found.items()}
        return {"agreement": agreement(decide(prediction.predictions, problem_type), prediction.label_ids)}

    return compute
