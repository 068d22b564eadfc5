"""The hard loss: the task's own, against the labels."""

import torch
from torch.nn import functional as F

from ..signals import Signals
from .base import Objective, ObjectiveSetup, rows_and_weights


class HardLoss(Objective):
    """What an ordinary fine-tuning minimises: cross-entropy, binary cross-entropy or squared error, by problem type.

    Examples without a label (-100 for a class, NaN for a score or for labels) and tokens labelled -100 add nothing to
    it. Tokens are averaged example by example, so that the value does not depend on which examples form a batch.

    Inputs:
        `student.logits` (batch, labels) with `batch["labels"]`: (batch,) codes, (batch,) scores, or (batch, labels)
        multi-hot floats; or (batch, length, labels) with (batch, length) codes.

    Requirements:
        labels. `label_smoothing_factor` of the training arguments applies to single-label classification.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import HardLoss
    >>> from tkd_hf.signals import Signals
    >>> hard = HardLoss("single_label_classification")
    >>> round(hard(Signals(logits=torch.zeros(1, 2)), None, {"labels": torch.tensor([1])}).item(), 4)  # log 2
    0.6931

    ```
    """

    needs_teacher = False
    needs_labels = True

    def __init__(self, problem_type: str, label_smoothing: float = 0.0):
        super().__init__()
        self.problem_type = problem_type
        self.label_smoothing = label_smoothing

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "HardLoss":
        return cls(setup.problem_type, setup.args.label_smoothing_factor)

    def forward(self, student: Signals, teacher: Signals | None, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits, weights, mask = rows_and_weights(student.logits.float(), batch, self.problem_type)
        labels = batch["labels"] if mask is None else batch["labels"][mask]
        return (weights * self._losses(logits, labels)).sum()

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n,), 0 where there is no label."""
        if self.problem_type == "regression":
            return _where_known(F.mse_loss, logits.squeeze(-1), labels.float())
        if self.problem_type == "multi_label_classification":
            return _where_known(F.binary_cross_entropy_with_logits, logits, labels.float()).mean(dim=-1)
        if labels.is_floating_point():
            raise ValueError(
                f"labels of type {labels.dtype} with shape {tuple(labels.shape)} are no class codes; for several "
                "labels an example set config.problem_type='multi_label_classification' on the student"
            )
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")


def _where_known(loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    known = ~labels.isnan()
    return loss(logits, labels.where(known, 0.0), reduction="none").where(known, 0.0)
