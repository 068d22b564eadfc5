"""What the student learns from: one objective a file, weighted by `DistillationTrainingArguments.objectives`.

An objective is an `nn.Module` built as `Objective(args, problem_type)` and called as
`objective(student_outputs, teacher_outputs, batch)`; it returns its own component of the loss, a scalar, unweighted.
A new one needs a file here and a line in `OBJECTIVES`.
"""

from .hard import HardLoss
from .logits import LogitDistillation


OBJECTIVES = {"logits": LogitDistillation, "hard": HardLoss}
