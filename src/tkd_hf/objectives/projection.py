"""What objectives share that compare vectors of student and teacher: a learned projection where widths differ."""

from torch import nn

from .base import Objective, ObjectiveSetup


class ProjectedObjective(Objective):
    """Reads hidden states and brings the student's to the teacher's width.

    Where the widths differ, `projection` is a linear map (TinyBERT, arXiv 1909.10351, equation 8), and nothing where
    they do not. It belongs to the objective, not to the student: it is trained and resumed with it, and never exported.

    Args:
        student_width, teacher_width: their hidden sizes.
    """

    features = ("hidden_states",)

    def __init__(self, student_width: int, teacher_width: int):
        super().__init__()
        same = student_width == teacher_width
        self.projection = nn.Identity() if same else nn.Linear(student_width, teacher_width, bias=False)

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "ProjectedObjective":
        return cls(setup.student.hidden_size, setup.teacher.hidden_size)
