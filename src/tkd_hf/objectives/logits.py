"""Objective `logits`: bring the student's predicted distribution to the teacher's softened one."""

import torch
from torch.nn import functional as F

from ..core.errors import InputError
from ..models.signals import Signals
from .base import Objective, ObjectiveSetup, rows_and_weights
from .divergences import bernoulli_divergence, categorical_divergence


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
            error (regression, whatever `divergence` is). See `tkd_hf.objectives.base.ObjectiveSetup`.
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
        if confidence_weighting and problem_type == "regression":
            raise InputError(
                "confidence_weighting=True does not work for regression: scores have no confidence; leave it out"
            )
        self.problem_type = problem_type
        self.first_temperature = self.temperature = temperature
        self.final_temperature = temperature if final_temperature is None else final_temperature
        self.divergence = "mse" if problem_type == "regression" else divergence
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
        student_logits, weights, mask = rows_and_weights(student.logits, batch, self.problem_type)
        teacher_logits = teacher.logits[mask] if mask is not None and teacher.logits.dim() == 3 else teacher.logits
        student_logits, teacher_logits = student_logits.float(), teacher_logits.float()
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(
                f"the student's logits have shape {tuple(student_logits.shape)}, the teacher's "
                f"{tuple(teacher_logits.shape)}; both need the same labels (SoftLabels.attach takes the student's)"
            )
        if self.confidence_weighting:
            weights = weights * self._confidence(teacher_logits)
        return (weights * self._divergence(student_logits, teacher_logits)).sum()

    def _divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if self.divergence == "mse":
            return F.mse_loss(student, teacher, reduction="none").mean(dim=-1)
        if self.problem_type == "multi_label_classification":
            return bernoulli_divergence(student, teacher, self.temperature, self.divergence)
        return categorical_divergence(student, teacher, self.temperature, self.divergence, self.top_k)

    def _confidence(self, teacher: torch.Tensor) -> torch.Tensor:
        if self.problem_type == "multi_label_classification":
            return teacher.abs().sigmoid().mean(dim=-1)
        return teacher.softmax(dim=-1).amax(dim=-1)
