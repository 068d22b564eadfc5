"""The metrics of GLUE and of token classification, as `evaluate.Metric`s that need no network.

To add a metric, write a subclass of `TextMetric` with a `label` and a `score`, and decorate it with `register_metric`.
It may be outside this package. A `Task` names its metrics by their label; training, evaluation, the gate, confidence
intervals, reports and model cards then use them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ..core.errors import InputError
from ..data.problem_types import ProblemType
from .predictions import Predictions, Rows, as_one_array


class TextMetric(evaluate.Metric):
    """A metric of predictions and references: class codes, scores, or multi-hot lists (configuration `multilabel`).

    `evaluate.load` would download a script from the Hub at run time. These classes compute the same values locally.

    A subclass sets `label` and `score`, and the other attributes if the defaults are wrong.

    Attributes:
        label: its name, the key in `METRICS` and in results.
        score: a static method that takes references and predictions, in this order, and returns a number. For token
            classification, they are those of all labelled tokens.
        value: the type of one reference; by default an integer code.
        needs_probabilities: whether `score` takes the probability of each label, (…, labels), instead of the predicted
            labels.
        higher_is_better: whether a larger value is better; the gate and the figures of reports consider it.
        problem_types: the problems for which it is defined (all).

    Example:

    ```python
    >>> from tkd_hf.evaluation.metrics import METRICS
    >>> METRICS["accuracy"]().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
    {'accuracy': 0.75}

    ```
    """

    label: ClassVar[str] = ""
    value: ClassVar[Any] = datasets.Value("int64")
    score: ClassVar[Callable[..., float]]
    needs_probabilities: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True
    problem_types: ClassVar[tuple[ProblemType, ...]] = tuple(ProblemType)

    @classmethod
    def inputs(cls, predictions: Predictions, label_names: tuple[str, ...]) -> tuple[Any, Any]:
        """Return references and predictions: arrays of all examples, or for token classification one per example."""
        if cls.needs_probabilities:
            return predictions.references, predictions.probabilities
        return predictions.references, predictions.predicted_labels

    @staticmethod
    def joined(values: Any) -> Any:
        """Join the references or predictions of several examples, as `score` takes them."""
        return as_one_array(values)

    def _info(self) -> evaluate.MetricInfo:
        reference = datasets.Sequence(self.value) if self.config_name == "multilabel" else self.value
        prediction = datasets.Sequence(datasets.Value("float64")) if self.needs_probabilities else reference
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            features=datasets.Features({"predictions": prediction, "references": reference}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        if isinstance(self.value, datasets.Sequence):
            return {self.label: float(self.score(references, predictions))}
        return {self.label: float(self.score(np.asarray(references), np.asarray(predictions)))}


METRICS: dict[str, type[TextMetric]] = {}
_CLASSES = (ProblemType.SINGLE_LABEL, ProblemType.MULTI_LABEL, ProblemType.TOKEN_CLASSIFICATION)
_Metric = TypeVar("_Metric", bound=type[TextMetric])


def register_metric(metric: _Metric) -> _Metric:
    """Add a metric to `METRICS`, so that tasks can name it; use it as a decorator.

    Args:
        metric: the class. It replaces a metric with the same label.

    Returns:
        The class.

    Raises:
        ValueError: if the class has no `label` or no `score`.

    Example:

    ```python
    >>> from sklearn.metrics import log_loss
    >>> from tkd_hf.evaluation.metrics import METRICS, TextMetric, register_metric
    >>> @register_metric
    ... class LogLoss(TextMetric):
    ...     label = "log_loss"
    ...     needs_probabilities = True
    ...     higher_is_better = False
    ...     score = staticmethod(log_loss)
    >>> METRICS.pop("log_loss") is LogLoss
    True

    ```
    """
    if not metric.label or not hasattr(metric, "score"):
        raise ValueError(f"{metric.__name__} needs a label and a score to be registered; set both in the class")
    METRICS[metric.label] = metric
    return metric


def higher_is_better(name: str) -> bool:
    """Return whether a larger value of a metric is better; it is for names that no metric has, such as `agreement`."""
    return name not in METRICS or METRICS[name].higher_is_better


@register_metric
class Accuracy(TextMetric):
    """The share of predictions that equal the reference."""

    label = "accuracy"
    problem_types = _CLASSES
    score = staticmethod(accuracy_score)


@register_metric
class F1(TextMetric):
    """The F1 of class 1, as GLUE reports it for MRPC and QQP; 0 if class 1 is never predicted."""

    label = "f1"
    problem_types = _CLASSES

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return f1_score(references, predictions, zero_division=0)


@register_metric
class F1Macro(TextMetric):
    """The mean of the F1 of all classes."""

    label = "f1_macro"
    problem_types = _CLASSES

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return f1_score(references, predictions, average="macro", zero_division=0)


@register_metric
class F1Micro(TextMetric):
    """The F1 over all decisions, for tasks with several labels per example."""

    label = "f1_micro"
    problem_types = _CLASSES

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return f1_score(references, predictions, average="micro", zero_division=0)


@register_metric
class MatthewsCorrelation(TextMetric):
    """Matthews' correlation coefficient, the metric of CoLA; 0 if all predictions are the same class."""

    label = "matthews_correlation"
    problem_types = _CLASSES
    score = staticmethod(matthews_corrcoef)


@register_metric
class Pearson(TextMetric):
    """Pearson's correlation of scores, a metric of STS-B; 0 if predictions or references are constant."""

    label = "pearson"
    value = datasets.Value("float64")
    problem_types = (ProblemType.REGRESSION,)

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return _correlation(pearsonr, references, predictions)


@register_metric
class Spearman(TextMetric):
    """Spearman's rank correlation of scores, a metric of STS-B; 0 if predictions or references are constant."""

    label = "spearman"
    value = datasets.Value("float64")
    problem_types = (ProblemType.REGRESSION,)

    @staticmethod
    def score(references: np.ndarray, predictions: np.ndarray) -> float:
        return _correlation(spearmanr, references, predictions)


def _correlation(statistic: Callable, references: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(references) == 0 or np.ptp(predictions) == 0:
        return 0.0  # the correlation is undefined; a model that always predicts the same has learned nothing
    return statistic(references, predictions).statistic


@register_metric
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
    problem_types = (ProblemType.TOKEN_CLASSIFICATION,)

    @classmethod
    def inputs(cls, predictions: Predictions, label_names: tuple[str, ...]) -> tuple[Any, Any]:
        return _tags(predictions.references, label_names), _tags(predictions.predicted_labels, label_names)

    @staticmethod
    def joined(values: Any) -> Any:
        return values

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


def score(
    logits: Rows,
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
        InputError: for a name that is not in `METRICS`, or a metric that is not defined for the problem type.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.metrics import score
    >>> score(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), ("accuracy",), "single_label_classification")
    {'accuracy': 0.5}

    ```
    """
    predictions = Predictions(logits, labels, ProblemType(problem_type))
    config = "multilabel" if predictions.problem_type.has_several_labels else None
    results: dict[str, float] = {}
    for metric in _metrics(names, predictions.problem_type):
        references, predicted = map(metric.joined, metric.inputs(predictions, label_names))
        results |= metric(config_name=config).compute(predictions=predicted, references=references)
    return results


def metric_functions(
    predictions: Predictions, names: tuple[str, ...], label_names: tuple[str, ...] = ()
) -> list[Callable[[np.ndarray], float]]:
    """Return for each metric a function of example indices, as `tkd_hf.core.statistics.bootstrap` takes them.

    The function computes the metric over the examples at these indices, which may repeat.
    """

    def metric_function(metric: type[TextMetric]) -> Callable[[np.ndarray], float]:
        references, predicted = metric.inputs(predictions, label_names)
        if not isinstance(predicted, list):
            return lambda indices: float(metric.score(references[indices], predicted[indices]))

        def over_tokens(indices: np.ndarray) -> float:
            chosen = ([values[index] for index in indices] for values in (references, predicted))
            return float(metric.score(*map(metric.joined, chosen)))

        return over_tokens

    return [metric_function(metric) for metric in _metrics(names, predictions.problem_type)]


def _metrics(names: tuple[str, ...], problem_type: ProblemType) -> list[type[TextMetric]]:
    """Return the metrics of these names, after checking that they are defined for the problem type."""
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"unknown metric {', '.join(unknown)}; the metrics are {', '.join(METRICS)}")
    metrics = [METRICS[name] for name in names]
    unfit = ", ".join(metric.label for metric in metrics if problem_type not in metric.problem_types)
    if unfit:
        fitting = ", ".join(name for name, metric in METRICS.items() if problem_type in metric.problem_types)
        raise InputError(f"{unfit} cannot measure {problem_type}; the metrics for that are {fitting}")
    return metrics


def _tags(labels: Iterable[np.ndarray], label_names: tuple[str, ...]) -> list[list[str]]:
    return [[label_names[code] for code in codes] for codes in labels]


def compute_metrics_for(names: tuple[str, ...], problem_type: str, label_names: tuple[str, ...] = ()) -> Callable:
    """Return the function that `transformers.Trainer` takes as `compute_metrics`.

    Args:
        names, problem_type, label_names: as in `score`.
    """
    return lambda prediction: score(prediction.predictions, prediction.label_ids, names, problem_type, label_names)
