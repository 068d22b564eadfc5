"""Metrics of GLUE and of tagging as `evaluate.Metric`s that need no network, and what a Trainer takes of them."""

import re
from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ..errors import InputError
from .predictions import Predictions


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
        if not isinstance(self.value, datasets.Sequence):
            references, predictions = np.asarray(references), np.asarray(predictions)
        return {self.label: float(self.score(references, predictions))}


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


class EntityF1(TextMetric):
    """F1 of entities, CoNLL's metric: an entity counts where its first word, its last word and its type are right.

    Predictions and references are lists of tags, one list an example. As CoNLL's script does, an `I-` that continues no
    entity of its type begins one. Tags without a prefix make an entity of each longest run of the same tag.

    Reference:
        Tjong Kim Sang and De Meulder 2003, arXiv cs/0306050.

    Example:

    ```python
    >>> from tkd_hf.evaluation.metrics import METRICS
    >>> tags = ["B-PER", "I-PER", "O", "B-LOC"]
    >>> METRICS["entity_f1"]().compute(predictions=[["B-PER", "I-PER", "O", "O"]], references=[tags])["entity_f1"]
    0.6666666666666666

    ```
    """

    label = "entity_f1"
    value = datasets.Sequence(datasets.Value("string"))

    @staticmethod
    def score(references, predictions):
        right = found = there = 0
        for predicted, reference in zip(predictions, references, strict=True):
            predicted, reference = entities(predicted), entities(reference)
            right, found, there = right + len(predicted & reference), found + len(predicted), there + len(reference)
        return 2 * right / (found + there) if right else 0.0


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Type, first and last place of each entity in a list of tags: IOB2, BIOES or BILOU, or tags without a prefix.

    Example:

    ```python
    >>> from tkd_hf.evaluation.metrics import entities
    >>> sorted(entities(["B-PER", "I-PER", "B-PER", "O"]))
    [('PER', 0, 1), ('PER', 2, 2)]

    ```
    """
    found, current, first, ended = set(), "O", 0, False
    for place, tag in enumerate([*tags, "O"]):
        prefix, kind = (tag[0], tag[2:]) if re.match("[BIESLU]-", tag) else ("I", tag)
        if kind != current or prefix in "BSU" or ended:
            if current != "O":
                found.add((current, first, place - 1))
            current, first = kind, place
        ended = prefix in "ESLU"
    return found


_ALL = (Accuracy, F1, F1Macro, F1Micro, MatthewsCorrelation, Pearson, Spearman, EntityF1)
METRICS = {metric.label: metric for metric in _ALL}


def score(
    logits: np.ndarray | list[np.ndarray],
    labels: np.ndarray | list[Sequence[int]],
    names: tuple[str, ...],
    problem_type: str,
    label_names: tuple[str, ...] = (),
) -> dict[str, float]:
    """The named metrics of logits against labels.

    Args:
        logits: (examples, labels), or for each example (length, labels).
        labels: (examples,) codes or scores, or (examples, labels) multi-hot, or for each example (length,) codes.
        names: keys of `METRICS`.
        problem_type: as in `transformers`, or `"token_classification"`.
        label_names: names of the codes, for metrics of entities.

    Raises:
        InputError: for a metric that is not among `METRICS`.
    """
    config = "multilabel" if problem_type == "multi_label_classification" else None
    found = Predictions(logits, labels, problem_type)
    results = {}
    for name, (references, answers) in _compared(found, names, label_names).items():
        results |= METRICS[name](config_name=config).compute(predictions=answers, references=references)
    return results


def metric_functions(
    predictions: Predictions, names: tuple[str, ...], label_names: tuple[str, ...] = ()
) -> list[Callable[[np.ndarray], float]]:
    """For each named metric, the function that gives it for a choice of examples, by their indices."""

    def metric_of(name: str, references: list | np.ndarray, answers: list | np.ndarray) -> Callable:
        compute = METRICS[name].score
        if not isinstance(answers, list):
            return lambda chosen: float(compute(references[chosen], answers[chosen]))

        def of_tokens(chosen: np.ndarray) -> float:
            pair = [[side[i] for i in chosen] for side in (references, answers)]
            return float(compute(*pair) if name == EntityF1.label else compute(*map(np.concatenate, pair)))

        return of_tokens

    compared = _compared(predictions, names, label_names, joined=False)
    return [metric_of(name, *pair) for name, pair in compared.items()]


def _compared(
    predictions: Predictions, names: tuple[str, ...], label_names: tuple[str, ...], joined: bool = True
) -> dict[str, tuple]:
    """For each metric its references and answers, as it takes them; of tokens, `joined` or by example."""
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"unknown metric {', '.join(unknown)}; the metrics are {', '.join(METRICS)}")
    pair = predictions.references, predictions.predicted_labels
    found = {}
    for name in names:
        if name == EntityF1.label:
            found[name] = tuple([[label_names[code] for code in codes] for codes in side] for side in pair)
        elif joined and isinstance(predictions.predicted_labels, list):
            found[name] = tuple(map(np.concatenate, pair))
        else:
            found[name] = pair
    return found


def compute_metrics_for(names: tuple[str, ...], problem_type: str, label_names: tuple[str, ...] = ()) -> Callable:
    """The function that `transformers.Trainer` takes as `compute_metrics`."""
    return lambda prediction: score(prediction.predictions, prediction.label_ids, names, problem_type, label_names)
