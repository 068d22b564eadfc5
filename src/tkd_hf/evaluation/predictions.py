"""What a model answers on a data set, and how sure of it the model is, for every kind of task."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit, softmax

from ..data.word_labels import IGNORED_LABEL


@dataclass(frozen=True)
class Predictions:
    """A model's logits beside the labels.

    Args:
        logits: (examples, labels), or of a token classifier for each example (length, labels).
        labels: (examples,) codes or scores, or (examples, labels) multi-hot, or for each example (length,) codes, -100
            where a token does not count.
        problem_type: as in `transformers`, or `"token_classification"`.
    """

    logits: np.ndarray | list[np.ndarray]
    labels: np.ndarray | list[Sequence[int]]
    problem_type: str

    @cached_property
    def predicted_labels(self) -> np.ndarray | list[np.ndarray]:
        """What the model answers, in the form of `references`."""
        return predicted_labels(self.logits, self.labels, self.problem_type)

    @cached_property
    def references(self) -> np.ndarray | list[np.ndarray]:
        """The labels, of tokens for each example those that count."""
        return labelled_tokens(self.labels, self.labels) if self._of_tokens else np.asarray(self.labels)

    @cached_property
    def labelled_logits(self) -> np.ndarray | list[np.ndarray]:
        """The logits, of tokens for each example those that count."""
        return labelled_tokens(self.logits, self.labels) if self._of_tokens else self.logits

    @cached_property
    def correct(self) -> np.ndarray:
        """(examples,) of bool: whether the answer is the label, in all tokens or labels of the example."""
        pairs = zip(self.predicted_labels, self.references, strict=True)
        return np.array([np.array_equal(answer, reference) for answer, reference in pairs])

    def confidence_and_correctness(self) -> tuple[np.ndarray, np.ndarray]:
        """The confidence in each decision, and whether it is right: of each example, token, or label of several."""
        logits, references = self.labelled_logits, self.references
        if self._of_tokens:
            logits, references = np.concatenate(logits), np.concatenate(references)
        if self.problem_type == "multi_label_classification":
            likely = expit(logits.astype(np.float64))
            return np.maximum(likely, 1 - likely).ravel(), ((likely > 0.5) == (references > 0.5)).ravel()
        likely = softmax(logits.astype(np.float64), axis=-1)
        return likely.max(-1), likely.argmax(-1) == references

    def example_confidence(self, example: int) -> float:
        """The probability of an example's answer; of the least likely label of several, of tokens the mean."""
        logits = np.asarray(self.labelled_logits[example], np.float64)
        if self.problem_type == "multi_label_classification":
            return float(expit(np.abs(logits)).min())
        return float(softmax(logits, axis=-1).max(-1).mean())

    def class_recalls(self, classes: int) -> list[tuple[int, float | None]]:
        """For each class (or label of several) how many examples or tokens are of it, and which share is found."""
        answered, wanted = self.predicted_labels, self.references
        if self._of_tokens:
            answered, wanted = np.concatenate(answered), np.concatenate(wanted)
        several = self.problem_type == "multi_label_classification"
        found = []
        for code in range(classes):
            there = wanted[:, code] > 0.5 if several else wanted == code
            hit = answered[:, code] > 0.5 if several else answered == code
            found.append((int(there.sum()), float(hit[there].mean()) if there.any() else None))
        return found

    @property
    def _of_tokens(self) -> bool:
        return self.problem_type == "token_classification"


def labels_from_logits(logits: np.ndarray, problem_type: str) -> np.ndarray:
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


def labelled_tokens(values: Iterable[Sequence], labels: Iterable[Sequence[int]]) -> list[np.ndarray]:
    """For each example, the values of the tokens that count: those not labelled -100."""
    pairs = zip(values, labels, strict=True)
    return [np.asarray(value)[np.asarray(codes) != IGNORED_LABEL] for value, codes in pairs]


def predicted_labels(
    logits: np.ndarray | list, labels: np.ndarray | list, problem_type: str
) -> np.ndarray | list[np.ndarray]:
    """Return the predicted labels of all examples; for tokens, only those that have a label (not -100)."""
    if problem_type != "token_classification":
        return labels_from_logits(logits, problem_type)
    return labelled_tokens((labels_from_logits(answer, problem_type) for answer in logits), labels)
