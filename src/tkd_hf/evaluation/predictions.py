"""The predictions of a model on a data set, in one form for every kind of task.

A *labelled token* is a token whose label is not -100. All results of token classification are over labelled tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit, log_softmax, softmax

from ..data.labels import IGNORED_LABEL
from ..data.problem_types import ProblemType


# one array with a row per example, or for token classification one array with a row per token for each example
Rows = np.ndarray | list[np.ndarray]


class ClassDecisions:
    """What the logits of a row decide if the row has one class."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability of each label, (…, labels)."""
        return softmax(logits.astype(np.float64), axis=-1)

    def confidence_and_correctness(self, logits: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each decision and whether it is right, both (decisions,)."""
        probabilities = self.probabilities(logits)
        return probabilities.max(-1), probabilities.argmax(-1) == references

    def example_confidence(self, logits: np.ndarray) -> float:
        """Return the probability of the prediction for one example; the mean over the tokens, if it has tokens."""
        return float(softmax(logits, axis=-1).max(-1).mean())

    def has_label(self, labels: np.ndarray, code: int) -> np.ndarray:
        """Return for each row whether it has the label with that code."""
        return labels == code

    def divergence(self, teacher: np.ndarray, model: np.ndarray) -> np.ndarray:
        """Return KL(teacher ‖ model) of each row of logits."""
        return _divergence(log_softmax(teacher, axis=-1), log_softmax(model, axis=-1)).sum(axis=-1)

    def named(self, label: Any, label_names: tuple[str, ...]) -> Any:
        """Return the label of one example with names instead of codes, for JSON."""
        return label_names[int(label)]


class TokenDecisions(ClassDecisions):
    """What the logits of a row decide if the row is a token."""

    def named(self, label: Any, label_names: tuple[str, ...]) -> Any:
        return [label_names[code] for code in label]


class SeveralLabelsDecisions(ClassDecisions):
    """What the logits of a row decide if each label is a decision of its own."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return expit(logits.astype(np.float64))

    def confidence_and_correctness(self, logits: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities = self.probabilities(logits)
        correct = (probabilities > 0.5) == (references > 0.5)
        return np.maximum(probabilities, 1 - probabilities).ravel(), correct.ravel()

    def example_confidence(self, logits: np.ndarray) -> float:
        return float(expit(np.abs(logits)).min())

    def has_label(self, labels: np.ndarray, code: int) -> np.ndarray:
        return labels[:, code] > 0.5

    def divergence(self, teacher: np.ndarray, model: np.ndarray) -> np.ndarray:
        yes = _divergence(log_expit(teacher), log_expit(model))
        no = _divergence(log_expit(-teacher), log_expit(-model))
        return (yes + no).sum(axis=-1)

    def named(self, label: Any, label_names: tuple[str, ...]) -> Any:
        return [name for name, applies in zip(label_names, label, strict=True) if applies]


def _divergence(teacher: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Return the terms of KL(teacher ‖ model) for log-probabilities."""
    return np.exp(teacher) * (teacher - model)


# Regression is missing: scores come without probabilities.
DECISIONS: dict[ProblemType, ClassDecisions] = {
    ProblemType.SINGLE_LABEL: ClassDecisions(),
    ProblemType.MULTI_LABEL: SeveralLabelsDecisions(),
    ProblemType.TOKEN_CLASSIFICATION: TokenDecisions(),
}


@dataclass(frozen=True)
class Predictions:
    """The logits of a model and the labels of the same examples.

    Metrics, calibration and fidelity read their input from here, so they need not know about padding, ignored tokens or
    the form of the labels.

    Args:
        logits: (examples, labels); for token classification, one (length, labels) array per example.
        labels: (examples,) codes or scores; (examples, labels) multi-hot; for token classification, one (length,)
            sequence of codes per example, with -100 at tokens to ignore.
        problem_type: a `ProblemType` or its name.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.predictions import Predictions
    >>> predictions = Predictions(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), "single_label_classification")
    >>> predictions.predicted_labels.tolist(), predictions.correct.tolist()
    ([0, 1], [True, False])

    ```
    """

    logits: Rows
    labels: np.ndarray | Sequence[Sequence[int] | np.ndarray]
    problem_type: ProblemType

    def __post_init__(self) -> None:
        object.__setattr__(self, "problem_type", ProblemType(self.problem_type))

    @cached_property
    def predicted_labels(self) -> Rows:
        """The labels (for regression, the scores) that the model predicts, in the same form as `references`."""
        return predicted_labels(self.logits, self.labels, self.problem_type)

    @cached_property
    def references(self) -> Rows:
        """The true labels; for token classification, those of the labelled tokens of each example."""
        return labelled_tokens(self.labels, self.labels) if self.problem_type.per_token else np.asarray(self.labels)

    @cached_property
    def labelled_logits(self) -> Rows:
        """The logits; for token classification, those of the labelled tokens of each example."""
        return labelled_tokens(self.logits, self.labels) if self.problem_type.per_token else self.logits

    @cached_property
    def probabilities(self) -> Rows:
        """The probability of each label, in the same form as `labelled_logits`; none for regression.

        The probabilities of several labels per example do not sum to 1.
        """
        if isinstance(self.labelled_logits, list):
            return [self._decisions.probabilities(logits) for logits in self.labelled_logits]
        return self._decisions.probabilities(self.labelled_logits)

    @cached_property
    def correct(self) -> np.ndarray:
        """(examples,) of bool: whether the prediction equals the label, in all tokens or labels of the example."""
        pairs = zip(self.predicted_labels, self.references, strict=True)
        return np.array([np.array_equal(predicted, reference) for predicted, reference in pairs])

    def confidence_and_correctness(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the confidence of every decision, and whether the decision is correct.

        A decision is the class of an example or of a labelled token, or whether one of several labels applies. Its
        confidence is the probability that the model gives it.

        Returns:
            Two arrays of shape (decisions,), of numbers from 0 to 1 and of bool.
        """
        logits, references = as_one_array(self.labelled_logits), as_one_array(self.references)
        return self._decisions.confidence_and_correctness(logits, references)

    def example_confidence(self, index: int) -> float:
        """Return the probability of the prediction for one example.

        With several labels per example, it is that of the least certain label; with labels per token, the mean.
        """
        return self._decisions.example_confidence(np.asarray(self.labelled_logits[index], np.float64))

    def class_recalls(self, num_classes: int) -> list[tuple[int, float | None]]:
        """Return for each class its number of examples (or labelled tokens) and the share that the model recognizes.

        The share is `None` for a class without examples. If an example can have several labels, each is a class.
        """
        predicted, references = as_one_array(self.predicted_labels), as_one_array(self.references)
        recalls = []
        for code in range(num_classes):
            in_class = self._decisions.has_label(references, code)
            recognized = self._decisions.has_label(predicted, code)
            recall = float(recognized[in_class].mean()) if in_class.any() else None
            recalls.append((int(in_class.sum()), recall))
        return recalls

    def named(self, label: Any, label_names: tuple[str, ...]) -> Any:
        """Return the label of one example with names instead of codes, for JSON; a score becomes a float."""
        return float(label) if self.problem_type.has_scores else self._decisions.named(label, label_names)

    @property
    def _decisions(self) -> ClassDecisions:
        return DECISIONS[self.problem_type]


def labels_from_logits(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Return the predicted labels for logits; see `ProblemType.predict`.

    Args:
        logits: (…, labels).
        problem_type: a `ProblemType` or its name.

    Returns:
        (…,) codes or scores; for several labels per example (…, labels), multi-hot.
    """
    return ProblemType(problem_type).predict(logits)


def labelled_tokens(values: Iterable[ArrayLike], labels: Iterable[ArrayLike]) -> list[np.ndarray]:
    """Return the values at the labelled tokens of each example."""
    pairs = zip(values, labels, strict=True)
    return [np.asarray(value)[np.asarray(codes) != IGNORED_LABEL] for value, codes in pairs]


def as_one_array(values: Rows) -> np.ndarray:
    """Join one array per example to one array with a row per token; return an array of all examples as it is."""
    return np.concatenate(values) if isinstance(values, list) else values


def predicted_labels(
    logits: Rows, labels: np.ndarray | Sequence[Sequence[int] | np.ndarray], problem_type: str
) -> Rows:
    """Return the predicted labels of all examples; for token classification, only those of labelled tokens.

    Args:
        logits, labels, problem_type: as in `Predictions`.
    """
    if not ProblemType(problem_type).per_token:
        return labels_from_logits(np.asarray(logits), problem_type)
    return labelled_tokens((labels_from_logits(example, problem_type) for example in logits), labels)
