"""Metrics of GLUE and of tagging as `evaluate.Metric`s that need no network, and what a Trainer takes of them."""

import re
from collections.abc import Callable, Iterable, Sequence

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ..data.tags import IGNORED
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

    def _compute(self, predictions, references):
        right = found = there = 0
        for predicted, reference in zip(predictions, references, strict=True):
            predicted, reference = entities(predicted), entities(reference)
            right, found, there = right + len(predicted & reference), found + len(predicted), there + len(reference)
        return {self.label: 2 * right / (found + there) if right else 0.0}


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


def decide(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """What a model answers: the class of the largest logit, every label above 0 (probability ½), or the score itself.

    Args:
        logits: (…, labels).
        problem_type: as in `transformers`, or `"token_classification"`.
    """
    if problem_type == "regression":
        return logits.squeeze(-1)
    if problem_type == "multi_label_classification":
        return (logits > 0).astype(np.int64)
    return logits.argmax(-1)


def counted(values: Iterable[Sequence], labels: Iterable[Sequence[int]]) -> list[np.ndarray]:
    """For each example, the values of the tokens that count: those not labelled -100."""
    pairs = zip(values, labels, strict=True)
    return [np.asarray(value)[np.asarray(codes) != IGNORED] for value, codes in pairs]


def answers(logits: np.ndarray | list, labels: np.ndarray | list, problem_type: str) -> np.ndarray | list[np.ndarray]:
    """What a model answers wherever there is something to answer: `decide`, and of tokens only those that count."""
    if problem_type != "token_classification":
        return decide(logits, problem_type)
    return counted((decide(answer, problem_type) for answer in logits), labels)


def agreement(answers: np.ndarray | list[np.ndarray], others: np.ndarray | list[np.ndarray]) -> float | None:
    """Share of examples on which two models answer alike; with several labels an example, in all of them.

    Args:
        answers, others: what the function `answers` gives for classes. Examples of which the two read different numbers
            of words, since their tokenizers cut elsewhere, are left out.

    Returns:
        the share of examples, or of tokens; `None` if none can be compared.
    """
    if isinstance(answers, list):
        alike = [pair for pair in zip(answers, others, strict=True) if len(pair[0]) == len(pair[1])]
        if not alike:
            return None
        answers, others = map(np.concatenate, zip(*alike, strict=True))
    same = answers == others
    return float(same.reshape(len(same), -1).all(axis=1).mean())


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
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"unknown metric {', '.join(unknown)}; the metrics are {', '.join(METRICS)}")
    config = "multilabel" if problem_type == "multi_label_classification" else None
    tagged = problem_type == "token_classification"
    predictions = answers(logits, labels, problem_type)
    references = counted(labels, labels) if tagged else labels
    results = {}
    for name in names:
        pair = {"predictions": predictions, "references": references}
        if name == EntityF1.label:
            pair = {side: [[label_names[code] for code in codes] for codes in lists] for side, lists in pair.items()}
        elif tagged:
            pair = {side: np.concatenate(lists) for side, lists in pair.items()}
        results |= METRICS[name](config_name=config).compute(**pair)
    return results


def compute_metrics_for(names: tuple[str, ...], problem_type: str, label_names: tuple[str, ...] = ()) -> Callable:
    """The function that `transformers.Trainer` takes as `compute_metrics`."""
    return lambda prediction: score(prediction.predictions, prediction.label_ids, names, problem_type, label_names)


def compute_agreement_for(problem_type: str) -> Callable:
    """As `compute_metrics_for`, where the references are a teacher's answers: agreement, or correlation of scores."""

    def compute(prediction) -> dict[str, float]:
        if problem_type == "regression":
            found = score(prediction.predictions, prediction.label_ids, ("pearson", "spearman"), problem_type)
            return {f"teacher_{name}": value for name, value in found.items()}
        logits, labels = prediction.predictions, prediction.label_ids
        references = counted(labels, labels) if problem_type == "token_classification" else labels
        return {"agreement": agreement(answers(logits, labels, problem_type), references)}

    return compute
