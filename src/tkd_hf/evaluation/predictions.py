"""The predictions of a model on a data set, in one form for every kind of task.

A *labelled token* is a token whose label is not -100. All results of token classification are over labelled tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax

from ..data.labels import IGNORED_LABEL


@dataclass(frozen=True)
class Predictions:
    """The logits of a model and the labels of the same examples.

    Metrics, calibration and fidelity read their input from here, so they need not know about padding, ignored tokens or
    the form of the labels.

    Args:
        logits: (examples, labels); for token classification, one (length, labels) array per example.
        labels: (examples,) codes or scores; (examples, labels) multi-hot; for token classification, one (length,)
            sequence of codes per example, with -100 at tokens to ignore.
        problem_type: a problem type of `transformers`, or `"token_classification"`.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.predictions import Predictions
    >>> predictions = Predictions(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), "single_label_classification")
    >>> predictions.predicted_labels.tolist(), predictions.correct.tolist()
    ([0, 1], [True, False])

    ```
    """

    logits: np.ndarray | list[np.ndarray]
    labels: np.ndarray | Sequence[Sequence[int] | np.ndarray]
    problem_type: str

    @cached_property
    def predicted_labels(self) -> np.ndarray | list[np.ndarray]:
        """The labels (for regression, the scores) that the model predicts, in the same form as `references`."""
        return predicted_labels(self.logits, self.labels, self.problem_type)

    @cached_property
    def references(self) -> np.ndarray | list[np.ndarray]:
        """The true labels; for token classification, those of the labelled tokens of each example."""
        return labelled_tokens(self.labels, self.labels) if self._per_token else np.asarray(self.labels)

    @cached_property
    def labelled_logits(self) -> np.ndarray | list[np.ndarray]:
        """The logits; for token classification, those of the labelled tokens of each example."""
        return labelled_tokens(self.logits, self.labels) if self._per_token else self.logits

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
        if self.problem_type == "multi_label_classification":
            probabilities = expit(logits.astype(np.float64))
            correct = (probabilities > 0.5) == (references > 0.5)
            return np.maximum(probabilities, 1 - probabilities).ravel(), correct.ravel()
        probabilities = softmax(logits.astype(np.float64), axis=-1)
        return probabilities.max(-1), probabilities.argmax(-1) == references

    def example_confidence(self, index: int) -> float:
        """Return the probability of the prediction for one example.

        With several labels per example, it is that of the least certain label; with labels per token, the mean.
        """
        logits = np.asarray(self.labelled_logits[index], np.float64)
        if self.problem_type == "multi_label_classification":
            return float(expit(np.abs(logits)).min())
        return float(softmax(logits, axis=-1).max(-1).mean())

    def class_recalls(self, num_classes: int) -> list[tuple[int, float | None]]:
        """Return for each class its number of examples (or labelled tokens) and the share that the model recognizes.

        The share is `None` for a class without examples. If an example can have several labels, each is a class.
        """
        predicted, references = as_one_array(self.predicted_labels), as_one_array(self.references)
        recalls = []
        for code in range(num_classes):
            if self.problem_type == "multi_label_classification":
                in_class, recognized = references[:, code] > 0.5, predicted[:, code] > 0.5
            else:
                in_class, recognized = references == code, predicted == code
            recall = float(recognized[in_class].mean()) if in_class.any() else None
            recalls.append((int(in_class.sum()), recall))
        return recalls

    @property
    def _per_token(self) -> bool:
        return self.problem_type == "token_classification"


def labels_from_logits(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Return the predicted labels for logits.

    They are the class with the largest logit, every label with a logit above 0 (a probability above ½), or the score
    itself.

    Args:
        logits: (…, labels).
        problem_type: a problem type of `transformers`, or `"token_classification"`.

    Returns:
        (…,) codes or scores; for several labels per example (…, labels), multi-hot.
    """
    if problem_type == "regression":
        return logits.squeeze(-1)
    if problem_type == "multi_label_classification":
        return (logits > 0).astype(np.int64)
    return logits.argmax(-1)


def labelled_tokens(values: Iterable[ArrayLike], labels: Iterable[ArrayLike]) -> list[np.ndarray]:
    """Return the values at the labelled tokens of each example."""
    pairs = zip(values, labels, strict=True)
    return [np.asarray(value)[np.asarray(codes) != IGNORED_LABEL] for value, codes in pairs]


def as_one_array(values: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """Join one array per example to one array with a row per token; return an array of all examples as it is."""
    return np.concatenate(values) if isinstance(values, list) else values


def predicted_labels(
    logits: np.ndarray | list[np.ndarray], labels: np.ndarray | Sequence[Sequence[int] | np.ndarray], problem_type: str
) -> np.ndarray | list[np.ndarray]:
    """Return the predicted labels of all examples; for token classification, only those of labelled tokens.

    Args:
        logits, labels, problem_type: as in `Predictions`.
    """
    if problem_type != "token_classification":
        return labels_from_logits(np.asarray(logits), problem_type)
    return labelled_tokens((labels_from_logits(example, problem_type) for example in logits), labels)
