"""Objective `logits`: bring the student's predicted distribution to the teacher's softened one."""

from collections.abc import Callable

import torch

from ..core.errors import InputError
from ..data.problem_types import ProblemType
from ..models.signals import Signals
from .base import Objective, ObjectiveSetup, rows_and_weights
from .divergences import SOFT_LOSSES, squared_difference


class LogitDistillation(Objective):
    """Learn the teacher's soft labels: a divergence between distributions, or the squared error between scores.

    This is the main objective of distillation. It needs no labels, so it works with unlabelled texts, and it can read
    soft labels that were computed once. If the loss falls but the agreement stays low, train on more texts, or on
    feature objectives in an earlier stage.

    Inputs:
        `student.logits` and `teacher.logits`, both (batch, labels), with the labels in the same order. Per token:
        (batch, length, labels); tokens labelled -100 do not count.

    Requirements:
        A live teacher or soft labels; for a masked language model a live teacher. Everything is computed in float32,
        also under autocast.

    Args:
        problem_type: decides the divergence: over classes, label by label (several labels per example), or squared
            error (regression, whatever `divergence` is). A `ProblemType` or its name.
        temperature: T at the start of training.
        final_temperature: T at the end of training, reached linearly (no change).
        divergence: `"forward_kl"`, `"reverse_kl"`, `"jensen_shannon"`, or `"mse"`, the squared difference of the logits
            averaged over the labels, which is the limit of the divergences for large T.
        confidence_weighting: weigh each example by the probability of the teacher's likeliest class; with several
            labels, by the mean over labels of the likelier of yes and no. Use it if the teacher is often unsure.
        top_k: as in `tkd_hf.objectives.divergences.categorical_divergence`; for vocabularies.

    Raises:
        InputError: if `confidence_weighting` is set for regression, because scores have no confidence.
        ValueError: in `forward`, if the two logits differ in shape; torch would broadcast them silently.

    Reference:
        Hinton et al. 2015, arXiv 1503.02531; stage 3, injection, of TKD-NLP, arXiv 2405.11704.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import LogitDistillation
    >>> from tkd_hf.models.signals import Signals
    >>> same = Signals(logits=torch.tensor([[1.0, -1.0]]))
    >>> LogitDistillation("single_label_classification", temperature=2.0)(same, same, {}).item()
    0.0

    ```
    """

    def __init__(
        self,
        problem_type: str,
        temperature: float = 1.0,
        final_temperature: float | None = None,
        divergence: str = "forward_kl",
        confidence_weighting: bool = False,
        top_k: int | None = None,
    ):
        super().__init__()
        self.problem_type = ProblemType(problem_type)
        if confidence_weighting and self.problem_type.has_scores:
            raise InputError(
                "confidence_weighting=True does not work for regression: scores have no confidence; leave it out"
            )
        self.first_temperature = self.temperature = temperature
        self.final_temperature = temperature if final_temperature is None else final_temperature
        self.divergence = divergence
        self.confidence_weighting = confidence_weighting
        self.top_k = top_k

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "LogitDistillation":
        args = setup.args
        schedule = (args.temperature, args.final_temperature)
        return cls(setup.problem_type, *schedule, args.divergence, args.confidence_weighting, args.top_k)

    def set_progress(self, progress: float) -> None:
        self.temperature = (1 - progress) * self.first_temperature + progress * self.final_temperature

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        assert student.logits is not None  # CombinedObjective.check refuses a student without a head
        assert teacher.logits is not None  # DistillationTrainer loads a teacher with a head for this objective
        student_logits, weights, mask = rows_and_weights(student.logits, batch, self.problem_type)
        teacher_logits = teacher.logits[mask] if mask is not None and teacher.logits.dim() == 3 else teacher.logits
        student_logits, teacher_logits = student_logits.float(), teacher_logits.float()
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(
                f"the student's logits have shape {tuple(student_logits.shape)}, the teacher's "
                f"{tuple(teacher_logits.shape)}; both need the same labels (SoftLabels.attach takes the student's)"
            )
        if self.confidence_weighting:
            weights = weights * CONFIDENCES[self.problem_type](teacher_logits)
        soft_loss = squared_difference if self.divergence == "mse" else SOFT_LOSSES[self.problem_type]
        losses = soft_loss(student_logits, teacher_logits, self.temperature, self.divergence, self.top_k)
        return (weights * losses).sum()


def class_confidence(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability of the likeliest class of each row, (n,)."""
    return logits.softmax(dim=-1).amax(dim=-1)


def several_label_confidence(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean over the labels of the probability of the likelier of yes and no, (n,)."""
    return logits.abs().sigmoid().mean(dim=-1)


CONFIDENCES: dict[ProblemType, Callable[[torch.Tensor], torch.Tensor]] = {
    ProblemType.SINGLE_LABEL: class_confidence,
    ProblemType.TOKEN_CLASSIFICATION: class_confidence,
    ProblemType.MASKED_LM: class_confidence,
    ProblemType.MULTI_LABEL: several_label_confidence,
}
