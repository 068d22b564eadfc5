"""A learned projection from the student's width to the teacher's, shared by the objectives that compare vectors."""

from torch import nn


def projection(student_width: int, teacher_width: int) -> nn.Module:
    """A linear map where the widths differ (TinyBERT, arXiv 1909.10351, equation 8), and nothing where they do not.

    It belongs to the objective, not to the student: it is trained and resumed with it, and never exported.
    """
    if student_width == teacher_width:
        return nn.Identity()
    return nn.Linear(student_width, teacher_width, bias=False)
