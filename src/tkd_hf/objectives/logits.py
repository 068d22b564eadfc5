"""Logit distillation: the student's distribution is drawn to the teacher's softened one."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..training_args import DistillationTrainingArguments


def categorical_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher ‖ student) of the softened distributions over classes, times T², mean over the batch.

    T² keeps the gradient's size independent of the temperature (Hinton et al. 2015, arXiv 1503.02531, section 2).

    Args:
        student, teacher: logits, (batch, classes).
        temperature: T, positive.
    """
    student_log_probs = F.log_softmax(student / temperature, dim=-1)
    teacher_log_probs = F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True) * temperature**2


def bernoulli_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher ‖ student) of each label's own yes-or-no, times T², mean over labels and batch.

    A softmax over labels that do not exclude each other would compare the wrong distributions.

    Args:
        student, teacher: logits, (batch, labels).
        temperature: T, positive.
    """
    student, teacher = student / temperature, teacher / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (yes + no).mean() * temperature**2


class LogitDistillation(nn.Module):
    """The teacher's answers as soft labels: KL over classes, KL label by label, or squared error, by problem type.

    Inputs:
        `student.logits` and `teacher.logits`, both (batch, labels), labels in the same order.

    Requirements:
        a teacher, live or cached. Computed in float32 under autocast, too.

    Raises:
        ValueError: if the two shapes differ, which would otherwise broadcast.

    Reference:
        Hinton et al. 2015, arXiv 1503.02531; stage 3, injection, of TKD-NLP, arXiv 2405.11704.

    Example:

    ```python
    >>> import torch
    >>> from transformers.modeling_outputs import SequenceClassifierOutput as Output
    >>> from tkd_hf import DistillationTrainingArguments
    >>> from tkd_hf.objectives import LogitDistillation
    >>> logits = LogitDistillation(DistillationTrainingArguments("x", report_to="none"), "single_label_classification")
    >>> same = Output(logits=torch.tensor([[1.0, -1.0]]))
    >>> logits(same, same, {}).item()
    0.0

    ```
    """

    needs_teacher = True
    needs_labels = False

    def __init__(self, args: DistillationTrainingArguments, problem_type: str):
        super().__init__()
        self.problem_type = problem_type
        self.temperature = args.temperature

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: dict) -> torch.Tensor:
        student_logits, teacher_logits = student.logits.float(), teacher.logits.float()
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(
                f"the student's logits are of shape {tuple(student_logits.shape)}, the teacher's of "
                f"{tuple(teacher_logits.shape)}; both need the same labels (SoftLabels.attach takes the student's)"
            )
        if self.problem_type == "regression":
            return F.mse_loss(student_logits, teacher_logits)
        if self.problem_type == "multi_label_classification":
            return bernoulli_divergence(student_logits, teacher_logits, self.temperature)
        return categorical_divergence(student_logits, teacher_logits, self.temperature)
