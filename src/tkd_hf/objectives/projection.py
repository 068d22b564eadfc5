"""The base of objectives that compare hidden vectors: a learned projection if the widths differ."""

from torch import nn

from .base import Objective, ObjectiveSetup


class ProjectedObjective(Objective):
    """Base class of objectives that compare hidden states of student and teacher.

    If the two widths differ, `projection` is a learned linear map from the student's width to the teacher's (TinyBERT,
    arXiv 1909.10351, equation 8). If they are equal, it does nothing. The projection belongs to the objective, not to
    the student: it is trained and saved in checkpoints, but never exported.

    Args:
        student_width: hidden size of the student.
        teacher_width: hidden size of the teacher.
    """

    features = ("hidden_states",)

    def __init__(self, student_width: int, teacher_width: int):
        super().__init__()
        same = student_width == teacher_width
        self.projection = nn.Identity() if same else nn.Linear(student_width, teacher_width, bias=False)

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "ProjectedObjective":
        return cls(setup.student.hidden_size, setup.teacher.hidden_size)
