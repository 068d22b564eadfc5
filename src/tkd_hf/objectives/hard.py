"""Objective `hard`: the ordinary loss of the task, against the labels."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from ..data.problem_types import ProblemType
from ..models.signals import Signals
from .base import Objective, ObjectiveSetup, rows_and_weights


class HardLoss(Objective):
    """The loss of ordinary fine-tuning: cross-entropy, binary cross-entropy or squared error, by problem type.

    Use it with a small weight next to `logits`: the labels correct the teacher's mistakes. With a large weight, the
    student trusts noisy labels more than its teacher. Alone, it is plain fine-tuning and needs no teacher.

    Examples without a label (-100 for a class; NaN for a score or for several labels) and tokens labelled -100
    contribute 0. The loss is averaged over the tokens of each example first, so that it does not depend on which
    examples form a batch.

    Inputs:
        `student.logits`, (batch, labels), with `batch["labels"]`: (batch,) class indices, (batch,) scores, or
        (batch, labels) floats of 0 and 1. For tokens, (batch, length, labels) with (batch, length) class indices.

    Requirements:
        Labels.

    Args:
        problem_type: a `ProblemType` or its name.
        label_smoothing: share of the probability that is spread over all classes, for single-label classification
            (`label_smoothing_factor` of the training arguments).

    Raises:
        ValueError: if the labels of a single-label classifier are floats.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import HardLoss
    >>> from tkd_hf.models.signals import Signals
    >>> hard = HardLoss("single_label_classification")
    >>> round(hard(Signals(logits=torch.zeros(1, 2)), None, {"labels": torch.tensor([1])}).item(), 4)  # log 2
    0.6931

    ```
    """

    needs_teacher = False
    needs_labels = True

    def __init__(self, problem_type: str, label_smoothing: float = 0.0):
        super().__init__()
        self.problem_type = ProblemType(problem_type)
        self.label_smoothing = label_smoothing

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "HardLoss":
        return cls(setup.problem_type, setup.args.label_smoothing_factor)

    def forward(self, student: Signals, teacher: Signals | None, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        assert student.logits is not None  # CombinedObjective.check refuses a student without a head
        logits, weights, mask = rows_and_weights(student.logits.float(), batch, self.problem_type)
        labels = batch["labels"] if mask is None else batch["labels"][mask]
        losses = HARD_LOSSES[self.problem_type](logits, labels, self.label_smoothing)
        return (weights * losses).sum()


def class_losses(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the cross-entropy of each row, (n,), and 0 for the label -100.

    Args:
        logits: (n, labels).
        labels: (n,) class indices.
        label_smoothing: share of the probability that is spread over all classes.
    """
    if labels.is_floating_point():
        raise ValueError(
            f"labels of type {labels.dtype} with shape {tuple(labels.shape)} are not class indices; for several "
            "labels per example set config.problem_type='multi_label_classification' on the student"
        )
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")


def several_label_losses(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the mean binary cross-entropy of each row, (n,); labels that are NaN count as 0, and nothing is smoothed.

    Args:
        logits, labels: (n, labels); the labels are 0 or 1.
        label_smoothing: not used, as in transformers.
    """
    return _masked_loss(F.binary_cross_entropy_with_logits, logits, labels.float()).mean(dim=-1)


def score_losses(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the squared error of each row, (n,), and 0 for a label that is NaN.

    Args:
        logits: (n, 1).
        labels: (n,) scores.
        label_smoothing: not used; scores have no classes.
    """
    return _masked_loss(F.mse_loss, logits.squeeze(-1), labels.float())


def _masked_loss(loss: Callable[..., torch.Tensor], logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of each element, and 0 if the label is NaN."""
    labelled = ~labels.isnan()
    return loss(logits, labels.where(labelled, 0.0), reduction="none").where(labelled, 0.0)


HARD_LOSSES: dict[ProblemType, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    ProblemType.SINGLE_LABEL: class_losses,
    ProblemType.TOKEN_CLASSIFICATION: class_losses,
    ProblemType.MASKED_LM: class_losses,
    ProblemType.MULTI_LABEL: several_label_losses,
    ProblemType.REGRESSION: score_losses,
}
