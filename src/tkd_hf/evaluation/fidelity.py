"""Compare a model with its teacher on the same examples: agreement, divergence, and which of the two is correct."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.statistics import mcnemar
from .metrics import score
from .predictions import DECISIONS, Predictions, as_one_array


@dataclass
class ClassChange:
    """The recall of one class, for the teacher and for the model.

    Args:
        name: the name of the class.
        examples: the number of examples (for token classification, of tokens) that belong to the class.
        teacher, model: the share of them that each of the two recognizes; `None` if the class has no examples.
    """

    name: str
    examples: int
    teacher: float | None
    model: float | None

    @property
    def change(self) -> float | None:
        """The recall of the model minus that of the teacher."""
        return None if self.teacher is None or self.model is None else self.model - self.teacher


@dataclass
class Fidelity:
    """How closely a model follows its teacher on the same examples.

    For regression only `pearson` and `difference` are set; for all other problem types, the rest is.

    Args:
        agreement: the share of examples (for token classification, of tokens) on which the predictions of both are
            the same.
        kl: the mean Kullback–Leibler divergence KL(teacher ‖ model) of the predicted distributions, in nats. With
            several labels per example it is summed over the labels.
        teacher_only, model_only: the number of examples that only the teacher, or only the model, gets right. With
            several labels or tokens per example, all of them must be right.
        p_value: McNemar's exact test of these two numbers. A small value means that the difference is hardly chance.
        classes: the recall of each class.
        pearson: the correlation of the model's scores with the teacher's.
        difference: the mean absolute difference of the scores.
    """

    agreement: float | None = None
    kl: float | None = None
    teacher_only: int | None = None
    model_only: int | None = None
    p_value: float | None = None
    classes: list[ClassChange] = field(default_factory=list)
    pearson: float | None = None
    difference: float | None = None


def fidelity(teacher: Predictions, model: Predictions, label_names: tuple[str, ...] = ()) -> Fidelity:
    """Compare the predictions of a model with those of its teacher.

    Accuracy alone hides changed behaviour: a student can be as accurate as its teacher and be wrong on other examples.
    Agreement, divergence and the recall of each class show that.

    Args:
        teacher, model: predictions for the same examples, with the labels in the same order. If the two tokenizers
            truncate an example of token classification at different words, it counts neither for agreement nor for
            divergence.
        label_names: the label names in that order.

    Returns:
        The comparison; see `Fidelity`.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.fidelity import fidelity
    >>> from tkd_hf.evaluation.predictions import Predictions
    >>> labels = np.array([0, 1, 1])
    >>> teacher = Predictions(np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), labels, "single_label_classification")
    >>> model = Predictions(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), labels, "single_label_classification")
    >>> result = fidelity(teacher, model, ("no", "yes"))
    >>> round(result.agreement, 3), result.teacher_only, result.model_only, result.p_value
    (0.667, 1, 0, 1.0)

    ```
    """
    if model.problem_type.has_scores:
        teacher_scores, model_scores = as_one_array(teacher.predicted_labels), as_one_array(model.predicted_labels)
        correlation = score(model.logits, teacher_scores, ("pearson",), model.problem_type)["pearson"]
        return Fidelity(pearson=correlation, difference=float(np.abs(teacher_scores - model_scores).mean()))
    teacher_only = int((teacher.correct & ~model.correct).sum())
    model_only = int((model.correct & ~teacher.correct).sum())
    return Fidelity(
        agreement=agreement(teacher.predicted_labels, model.predicted_labels),
        kl=_divergence(teacher, model),
        teacher_only=teacher_only,
        model_only=model_only,
        p_value=mcnemar(teacher_only, model_only),
        classes=_class_changes(teacher, model, label_names),
    )


def agreement(first: np.ndarray | list[np.ndarray], second: np.ndarray | list[np.ndarray]) -> float | None:
    """Return the share of examples on which two models predict the same labels.

    With several labels per example, all of them must be the same.

    Args:
        first, second: predicted labels of classes, as `tkd_hf.evaluation.predictions.predicted_labels` returns them.
            Examples for which the two have different numbers of tokens are left out.

    Returns:
        The share of examples, or of tokens for token classification; `None` if no example can be compared.
    """
    arrays = _comparable(first, second)
    if arrays is None:
        return None
    same = arrays[0] == arrays[1]
    return float(same.reshape(len(same), -1).all(axis=1).mean())


def disagreements(
    teacher: Predictions, model: Predictions, rows: list[dict[str, Any]], label_names: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Return the examples on which model and teacher predict different labels.

    Those of which the model is most confident come first; for regression, those with the largest difference.

    Args:
        teacher, model, label_names: as in `fidelity`.
        rows: the texts of the examples, in order.

    Returns:
        The rows of these examples, with the keys `label`, `teacher` and `model` for the label and the two predictions,
        and (except for regression) `teacher_confidence` and `model_confidence`. A confidence is the probability of the
        prediction; see `Predictions.example_confidence`.
    """
    entries = []
    for index, row in enumerate(rows):
        teacher_label, model_label = teacher.predicted_labels[index], model.predicted_labels[index]
        if np.array_equal(teacher_label, model_label):
            continue
        entry = dict(row) | {"label": model.named(model.references[index], label_names)}
        for name, predictions, label in (("teacher", teacher, teacher_label), ("model", model, model_label)):
            entry[name] = model.named(label, label_names)
            if not model.problem_type.has_scores:
                entry[f"{name}_confidence"] = round(predictions.example_confidence(index), 4)
        entries.append(entry)
    if model.problem_type.has_scores:
        return sorted(entries, key=lambda entry: -abs(entry["teacher"] - entry["model"]))
    return sorted(entries, key=lambda entry: -entry["model_confidence"])


def _comparable(
    first: np.ndarray | list[np.ndarray], second: np.ndarray | list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the values of two models as two arrays of the same shape; `None` if no example can be compared.

    For token classification, the arrays hold the tokens of the examples that both models read equally far.
    """
    if isinstance(first, list):
        pairs = [pair for pair in zip(first, second, strict=True) if len(pair[0]) == len(pair[1])]
        if not pairs:
            return None
        first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return as_one_array(first), as_one_array(second)


def _divergence(teacher: Predictions, model: Predictions) -> float | None:
    """Return the mean KL(teacher ‖ model) over examples, or over the tokens of examples that both read equally far."""
    arrays = _comparable(teacher.labelled_logits, model.labelled_logits)
    if arrays is None:
        return None
    teacher_logits, model_logits = (logits.astype(np.float64) for logits in arrays)
    return float(DECISIONS[model.problem_type].divergence(teacher_logits, model_logits).mean())


def _class_changes(teacher: Predictions, model: Predictions, label_names: tuple[str, ...]) -> list[ClassChange]:
    recalls = [predictions.class_recalls(len(label_names)) for predictions in (teacher, model)]
    return [
        ClassChange(name, examples, teacher_recall, model_recall)
        for name, (_, teacher_recall), (examples, model_recall) in zip(label_names, *recalls, strict=True)
    ]
