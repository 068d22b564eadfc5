"""The metrics of GLUE and of token classification, as `evaluate.Metric`s that need no network.

To add a metric, write a subclass of `TextMetric` with a `label` and a `score`, and add it to `METRICS`. A `Task` names
its metrics by their label; training, evaluation, confidence intervals and model cards then use them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ..core.errors import InputError
from .predictions import Predictions, as_one_array


class TextMetric(evaluate.Metric):
    """A metric of predictions and references: class codes, scores, or multi-hot lists (configuration `multilabel`).

    `evaluate.load` would download a script from the Hub at run time. These classes compute the same values locally.

    A subclass has three members:
        label: its name, the key in `METRICS` and in results.
        value: the type of one prediction; by default an integer code.
        score: a static method that takes references and predictions, in this order, and returns a number.

    Example:

    ```python
    >>> from tkd_hf.evaluation.metrics import METRICS
    >>> METRICS["accuracy"]().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
    {'accuracy': 0.75}

    ```
    """

    label = ""
    value = datasets.Value("int64")
    score: ClassVar[Callable[..., float]]

    def _info(self) -> evaluate.MetricInfo:
        feature = datasets.Sequence(self.value) if self.config_name == "multilabel" else self.value
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        if isinstance(self.value, datasets.Sequence):
            return {self.label: float(self.score(references, predictions))}
        return {self.label: float(self.score(np.asarray(references), np.asarray(predictions)))}


class Accuracy(TextMetric):
    """The share of predictions that equal the reference."""

    label = "accuracy"
    score = staticmethod(accuracy_score)


class F1(TextMetric):
    """The F1 of class 1, as GLUE reports it for MRPC and QQP; 0 if class 1 is never predicted."""

    label = "f1"

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return f1_score(references, predictions, zero_division=0)


class F1Macro(TextMetric):
    """The mean of the F1 of all classes."""

    label = "f1_macro"

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return f1_score(references, predictions, average="macro", zero_division=0)


class F1Micro(TextMetric):
    """The F1 over all decisions, for tasks with several labels per example."""

    label = "f1_micro"

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return f1_score(references, predictions, average="micro", zero_division=0)


class MatthewsCorrelation(TextMetric):
    """Matthews' correlation coefficient, the metric of CoLA; 0 if all predictions are the same class."""

    label = "matthews_correlation"
    score = staticmethod(matthews_corrcoef)


class Pearson(TextMetric):
    """Pearson's correlation of scores, a metric of STS-B; 0 if predictions or references are constant."""

    label = "pearson"
    value = datasets.Value("float64")

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return _correlation(pearsonr, references, predictions)


class Spearman(TextMetric):
    """Spearman's rank correlation of scores, a metric of STS-B; 0 if predictions or references are constant."""

    label = "spearman"
    value = datasets.Value("float64")

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return _correlation(spearmanr, references, predictions)


def _correlation(statistic: Callable, references: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return 0.0  # the correlation is undefined; a model that always predicts the same has learned nothing
    return statistic(references, predictions).statistic


class EntityF1(TextMetric):
    """The F1 of entities, the metric of CoNLL: an entity is correct if its first word, last word and type are correct.

    Predictions and references are lists of tags, one list per example. As in CoNLL's script, an `I-` tag that does not
    continue an entity of its type begins one. Tags without a prefix form one entity per longest run of the same tag.

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
    def score(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> float:
        correct = num_predicted = num_references = 0
        for predicted_tags, reference_tags in zip(predictions, references, strict=True):
            predicted_entities, reference_entities = entities(predicted_tags), entities(reference_tags)
            correct += len(predicted_entities & reference_entities)
            num_predicted += len(predicted_entities)
            num_references += len(reference_entities)
        return 2 * correct / (num_predicted + num_references) if correct else 0.0


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the type and the indices of the first and the last word of each entity.

    Args:
        tags: one tag per word, in the scheme IOB2, BIOES or BILOU, or without prefixes.

    Example:

    ```python
    >>> from tkd_hf.evaluation.metrics import entities
    >>> sorted(entities(["B-PER", "I-PER", "B-PER", "O"]))
    [('PER', 0, 1), ('PER', 2, 2)]

    ```
    """
    spans, current_type, first, ended = set(), "O", 0, False
    for index, tag in enumerate([*tags, "O"]):
        prefix, entity_type = (tag[0], tag[2:]) if re.match("[BIESLU]-", tag) else ("I", tag)
        if entity_type != current_type or prefix in "BSU" or ended:
            if current_type != "O":
                spans.add((current_type, first, index - 1))
            current_type, first = entity_type, index
        ended = prefix in "ESLU"
    return spans


METRICS: dict[str, type[TextMetric]] = {
    metric.label: metric
    for metric in (Accuracy, F1, F1Macro, F1Micro, MatthewsCorrelation, Pearson, Spearman, EntityF1)
}


def score(
    logits: np.ndarray | list[np.ndarray],
    labels: np.ndarray | Sequence[Sequence[int] | np.ndarray],
    names: tuple[str, ...],
    problem_type: str,
    label_names: tuple[str, ...] = (),
) -> dict[str, float]:
    """Compute metrics from logits and labels.

    Args:
        logits, labels, problem_type: as in `tkd_hf.evaluation.predictions.Predictions`.
        names: keys of `METRICS`.
        label_names: the label names in the order of the codes; needed for metrics of entities.

    Returns:
        The value of each metric by name.

    Raises:
        InputError: for a name that is not in `METRICS`.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.metrics import score
    >>> score(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), ("accuracy",), "single_label_classification")
    {'accuracy': 0.5}

    ```
    """
    config = "multilabel" if problem_type == "multi_label_classification" else None
    predictions = Predictions(logits, labels, problem_type)
    results: dict[str, float] = {}
    for name, (references, predicted) in _metric_inputs(predictions, names, label_names).items():
        results |= METRICS[name](config_name=config).compute(predictions=predicted, references=references)
    return results


def metric_functions(
    predictions: Predictions, names: tuple[str, ...], label_names: tuple[str, ...] = ()
) -> list[Callable[[np.ndarray], float]]:
    """Return for each metric a function of example indices, as `tkd_hf.core.statistics.bootstrap` takes them.

    The function computes the metric over the examples at these indices, which may repeat.
    """

    def metric_function(name: str, references: list | np.ndarray, predicted: list | np.ndarray) -> Callable:
        compute = METRICS[name].score
        if not isinstance(predicted, list):
            return lambda indices: float(compute(references[indices], predicted[indices]))

        def over_tokens(indices: np.ndarray) -> float:
            chosen_references, chosen_predicted = ([values[i] for i in indices] for values in (references, predicted))
            if name == EntityF1.label:
                return float(compute(chosen_references, chosen_predicted))
            return float(compute(as_one_array(chosen_references), as_one_array(chosen_predicted)))

        return over_tokens

    inputs = _metric_inputs(predictions, names, label_names, joined=False)
    return [metric_function(name, references, predicted) for name, (references, predicted) in inputs.items()]


def _metric_inputs(
    predictions: Predictions, names: tuple[str, ...], label_names: tuple[str, ...], joined: bool = True
) -> dict[str, tuple[list | np.ndarray, list | np.ndarray]]:
    """Return references and predictions in the form that each metric takes.

    If `joined`, the tokens of all examples are one array; otherwise they are one array per example.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"unknown metric {', '.join(unknown)}; the metrics are {', '.join(METRICS)}")
    references, predicted = predictions.references, predictions.predicted_labels
    inputs: dict[str, tuple[list | np.ndarray, list | np.ndarray]] = {}
    for name in names:
        if name == EntityF1.label:
            inputs[name] = _tags(references, label_names), _tags(predicted, label_names)
        elif joined:
            inputs[name] = as_one_array(references), as_one_array(predicted)
        else:
            inputs[name] = references, predicted
    return inputs


def _tags(labels: Iterable[np.ndarray], label_names: tuple[str, ...]) -> list[list[str]]:
    return [[label_names[code] for code in codes] for codes in labels]


def compute_metrics_for(names: tuple[str, ...], problem_type: str, label_names: tuple[str, ...] = ()) -> Callable:
    """Return the function that `transformers.Trainer` takes as `compute_metrics`.

    Args:
        names, problem_type, label_names: as in `score`.
    """
    return lambda prediction: score(prediction.predictions, prediction.label_ids, names, problem_type, label_names)
