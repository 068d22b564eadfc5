"""The agreement of student and teacher on a batch, which the trainer logs next to the losses."""

import torch

from .base import rows_and_weights


def batch_agreement(
    student: torch.Tensor, teacher: torch.Tensor, batch: dict[str, torch.Tensor], problem_type: str
) -> dict[str, torch.Tensor]:
    """Measure how far the student's predictions for a batch agree with the teacher's.

    This is a metric, not a loss: it has no gradient.

    Args:
        student: logits in one of the shapes that `tkd_hf.objectives.base.rows_and_weights` takes.
        teacher: logits of the same shape, with the labels in the same order.
        batch: the batch that they belong to.
        problem_type: see `tkd_hf.objectives.base.ObjectiveSetup`.

    Returns:
        For classes, `{"agreement": …}`: the share of examples with the same predicted label. With several labels per
        example, all of them must agree. For tokens, it is the mean over examples of each example's share.
        For scores, `{"teacher_difference": …}`: the mean absolute difference.
    """
    student_rows, weights, mask = rows_and_weights(student.detach(), batch, problem_type)
    teacher_rows = teacher[mask] if mask is not None and teacher.dim() == 3 else teacher
    if problem_type == "regression":
        return {"teacher_difference": (weights * (student_rows - teacher_rows).abs().mean(dim=-1)).sum()}
    if problem_type == "multi_label_classification":
        same = ((student_rows > 0) == (teacher_rows > 0)).all(dim=-1)
    else:
        same = student_rows.argmax(dim=-1) == teacher_rows.argmax(dim=-1)
    return {"agreement": (weights * same).sum()}
