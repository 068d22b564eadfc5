"""What is logged beside the losses: how near the student's answers to a batch are to the teacher's."""

import torch

from .base import rows_and_weights


def batch_agreement(
    student: torch.Tensor, teacher: torch.Tensor, batch: dict[str, torch.Tensor], problem_type: str
) -> dict[str, torch.Tensor]:
    """Agreement on the batch, or of scores the mean absolute difference; no gradient, and no part of the loss.

    Args:
        student, teacher: logits, with labels in the same order; see `tkd_hf.objectives.base.rows_and_weights`.
        batch: the batch they come from.
        problem_type: see `tkd_hf.objectives.base.ObjectiveSetup`.

    Returns:
        `agreement`, the share of examples answered alike, with several labels in all of them; of tokens the mean of
        each example's share. Of scores `teacher_difference`.
    """
    ours, weights, mask = rows_and_weights(student.detach(), batch, problem_type)
    theirs = teacher[mask] if mask is not None and teacher.dim() == 3 else teacher
    if problem_type == "regression":
        return {"teacher_difference": (weights * (ours - theirs).abs().mean(dim=-1)).sum()}
    if problem_type == "multi_label_classification":
        alike = ((ours > 0) == (theirs > 0)).all(dim=-1)
    else:
        alike = ours.argmax(dim=-1) == theirs.argmax(dim=-1)
    return {"agreement": (weights * alike).sum()}
