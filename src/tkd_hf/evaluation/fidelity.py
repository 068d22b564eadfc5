"""How near a model is to its teacher: where the two answer alike, how far apart they are, and who is right."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import log_expit, log_softmax

from .intervals import mcnemar
from .metrics import score
from .predictions import Predictions


@dataclass
class ClassChange:
    """Recall of one class.

    Args:
        name: of the class.
        examples: that are of it.
        teacher, model: share of them that each of the two finds; `None` where there are none.
    """

    name: str
    examples: int
    teacher: float | None
    model: float | None

    @property
    def change(self) -> float | None:
        """The model's less the teacher's."""
        return None if self.teacher is None or self.model is None else self.model - self.teacher


@dataclass
class Fidelity:
    """A model beside its teacher, on the same examples.

    Args:
        agreement: share of examples, or of tokens, on which both answer alike; `None` for scores.
        kl: mean Kullback–Leibler divergence KL(teacher ‖ model) of their distributions, in nats; with several labels
            the sum over labels; `None` for scores.
        teacher_only, model_only: examples that only one of the two gets right (in all tokens or labels).
        p_value: McNemar's exact test of these: small where the difference is hardly chance; `None` for scores.
        classes: recall of each class.
        pearson, difference: of scores: correlation, and mean absolute difference.
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
    """Compares a model's predictions with its teacher's.

    Args:
        teacher, model: for the same examples, in the same order of labels. Examples of which the two read different
            numbers of words, since their tokenizers cut elsewhere, count for neither agreement nor divergence.
        label_names: in that order.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.fidelity import fidelity
    >>> from tkd_hf.evaluation.metrics import Predictions
    >>> labels = np.array([0, 1, 1])
    >>> teacher = Predictions(np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), labels, "single_label_classification")
    >>> model = Predictions(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]]), labels, "single_label_classification")
    >>> found = fidelity(teacher, model, ("no", "yes"))
    >>> round(found.agreement, 3), found.teacher_only, found.model_only, found.p_value
    (0.667, 1, 0, 1.0)

    ```
    """
    if model.problem_type == "regression":
        one, other = teacher.predicted_labels, model.predicted_labels
        correlation = score(model.logits, one, ("pearson",), "regression")["pearson"]
        return Fidelity(pearson=correlation, difference=float(np.abs(one - other).mean()))
    only_teacher = int((teacher.correct & ~model.correct).sum())
    only_model = int((model.correct & ~teacher.correct).sum())
    return Fidelity(
        agreement=agreement(teacher.predicted_labels, model.predicted_labels),
        kl=_divergence(teacher, model),
        teacher_only=only_teacher,
        model_only=only_model,
        p_value=mcnemar(only_teacher, only_model),
        classes=_class_changes(teacher, model, label_names),
    )


def agreement(answers: np.ndarray | list[np.ndarray], others: np.ndarray | list[np.ndarray]) -> float | None:
    """Share of examples on which two models answer alike; with several labels an example, in all of them.

    Args:
        answers, others: what the function `answers` gives for classes. Examples of which the two read different numbers
            of words are left out.

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


def disagreements(
    teacher: Predictions, model: Predictions, rows: list[dict[str, Any]], label_names: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The examples that the two answer differently, those first of which the model is most confident.

    Of scores, those first that lie farthest apart.

    Args:
        teacher, model: as in `fidelity`.
        rows: the texts of the examples, in order.
        label_names: in the order of the logits.

    Returns:
        each row with `label`, and for `teacher` and `model` what it answers and how confident it is: the probability of
        the answer, of the least likely label where several hold, of tokens the mean.
    """
    found = []
    for place, row in enumerate(rows):
        one, other = teacher.predicted_labels[place], model.predicted_labels[place]
        if np.array_equal(one, other):
            continue
        entry = dict(row) | {"label": _named(model.references[place], model.problem_type, label_names)}
        for name, predictions, answer in (("teacher", teacher, one), ("model", model, other)):
            entry[name] = _named(answer, model.problem_type, label_names)
            if model.problem_type != "regression":
                entry[f"{name}_confidence"] = round(predictions.example_confidence(place), 4)
        found.append(entry)
    if model.problem_type == "regression":
        return sorted(found, key=lambda entry: -abs(entry["teacher"] - entry["model"]))
    return sorted(found, key=lambda entry: -entry["model_confidence"])


def _named(answer: Any, problem_type: str, label_names: tuple[str, ...]) -> Any:
    if problem_type == "regression":
        return float(answer)
    if problem_type == "multi_label_classification":
        return [name for name, there in zip(label_names, answer, strict=True) if there]
    if problem_type == "token_classification":
        return [label_names[code] for code in answer]
    return label_names[int(answer)]


def _divergence(teacher: Predictions, model: Predictions) -> float | None:
    """Mean KL(teacher ‖ model) over examples, or over tokens that both read."""
    one, other = teacher.labelled_logits, model.labelled_logits
    if isinstance(one, list):
        alike = [pair for pair in zip(one, other, strict=True) if len(pair[0]) == len(pair[1])]
        if not alike:
            return None
        one, other = map(np.concatenate, zip(*alike, strict=True))
    one, other = one.astype(np.float64), other.astype(np.float64)
    if model.problem_type == "multi_label_classification":
        sides = [(log_expit(one), log_expit(other)), (log_expit(-one), log_expit(-other))]
    else:
        sides = [(log_softmax(one, axis=-1), log_softmax(other, axis=-1))]
    terms = sum(np.exp(ours) * (ours - theirs) for ours, theirs in sides)
    return float(terms.sum(axis=-1).mean())


def _class_changes(teacher: Predictions, model: Predictions, label_names: tuple[str, ...]) -> list[ClassChange]:
    recalls = [predictions.class_recalls(len(label_names)) for predictions in (teacher, model)]
    return [
        ClassChange(name, examples, one, other)
        for name, (_, one), (examples, other) in zip(label_names, *recalls, strict=True)
    ]
