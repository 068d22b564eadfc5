"""The base class of objectives, and how they average: padding and the make-up of a batch must not change a value."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ..data.problem_types import ProblemType
from ..models.signals import Signals, without_adapters


@dataclass(frozen=True)
class ObjectiveSetup:
    """Everything an objective may read to build itself.

    Args:
        args: the `DistillationTrainingArguments`.
        problem_type: the problem type of the student; see `tkd_hf.data.problem_types.ProblemType`.
        student: the student's configuration.
        teacher: the teacher's configuration; `None` if its logits are read from soft labels.
        layer_map: for each student layer, the index (from 0) of the teacher layer it learns from; empty without a
            teacher.
    """

    args: Any
    problem_type: ProblemType
    student: PretrainedConfig | None = None
    teacher: PretrainedConfig | None = None
    layer_map: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "problem_type", ProblemType(self.problem_type))

    def configurations(self) -> tuple[PretrainedConfig, PretrainedConfig]:
        """Return the configurations of the student and of its live teacher, for objectives that read features.

        Raises:
            ValueError: if one of them is missing, as the teacher's is with soft labels.
        """
        if self.student is None or self.teacher is None:
            missing = "student" if self.student is None else "teacher"
            raise ValueError(f"the setup has no {missing}, whose features the objective reads; pass its configuration")
        return self.student, self.teacher


class Objective(nn.Module):
    """Base class of the training objectives: one unweighted term of the loss.

    The value is a scalar: the mean over the batch of one value per example, so that long and short examples count the
    same and padding does not count. `CombinedObjective` applies the weights.

    A subclass sets the class attributes, builds itself from an `ObjectiveSetup`, and computes `forward`. Its parameters
    (for example a learned projection) are optimised, synchronised between processes and saved in checkpoints; they are
    not part of the exported student.

    Attributes:
        needs_teacher: whether `forward` reads the teacher's signals.
        needs_labels: whether `forward` reads `batch["labels"]`.
        features: signals it reads besides logits, from `tkd_hf.models.signals.FEATURES`. An objective that reads any
            needs a live teacher with the student's tokenizer.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import Objective
    >>> from tkd_hf.models.signals import Signals
    >>> class LogitDifference(Objective):
    ...     @classmethod
    ...     def build(cls, setup):
    ...         return cls()
    ...
    ...     def forward(self, student, teacher, batch):
    ...         return (student.logits - teacher.logits).abs().mean()
    >>> LogitDifference()(Signals(torch.zeros(1, 2)), Signals(torch.ones(1, 2)), {}).item()
    1.0

    ```
    """

    needs_teacher = True
    needs_labels = False
    features: tuple[str, ...] = ()

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "Objective":
        """Build the objective for a run; called once, before training."""
        raise NotImplementedError

    def set_progress(self, progress: float) -> None:
        """Adjust scheduled options; called before each step with the share of training done, from 0 to 1."""

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the term of the loss.

        Args:
            student: the student's signals for the batch.
            teacher: the teacher's signals for it. An objective with `needs_teacher = False` may get `None`, if no
                objective of the run needs a teacher.
            batch: the batch, with `attention_mask` and, if the data has them, `labels`.

        Returns:
            a scalar tensor.
        """
        raise NotImplementedError


def problem_type_of(model: PreTrainedModel) -> ProblemType:
    """Return the problem type of a student.

    The class of the model decides for token classifiers, masked language models and bare encoders. The configuration
    decides for classifiers of whole texts; if it names no problem type, one output means regression, and several mean
    classes.
    """
    base = without_adapters(model)
    problem_type = ProblemType.of_class(type(base).__name__)
    if problem_type is None or (problem_type is ProblemType.ENCODER and not isinstance(base, PreTrainedModel)):
        return ProblemType.of_classifier(base.config)
    return problem_type


def real_tokens(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a (batch, length) bool mask of the real tokens, those with attention mask 1."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def mean_over_tokens(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average over the tokens of each example, then over the examples, so that their length does not matter.

    Args:
        values: (batch, length).
        mask: (batch, length) bool, the tokens that count. An example in which no token counts has the value 0.
    """
    values = values.masked_fill(~mask, 0.0)
    return (values.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def rows_and_weights(
    logits: torch.Tensor, batch: dict[str, torch.Tensor], problem_type: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Select the rows of logits that count, and weigh them so that every example counts the same.

    Args:
        logits: (batch, labels); per token (batch, length, labels), or only those of the labelled tokens,
            (tokens, labels).
        batch: a token counts if its label is not -100; without `labels`, if it is a real token.
        problem_type: decides whether a row is an example or a token.

    Returns:
        rows: (n, labels), the logits that count.
        weights: (n,), so that `(weights * values).sum()` is the mean over the tokens of each example, then over the
            examples.
        mask: (batch, length) bool, the tokens that were selected; `None` if a row is an example.
    """
    if not ProblemType(problem_type).per_token:
        return logits, logits.new_full((len(logits),), 1 / len(logits)), None
    labels = batch.get("labels")
    mask = real_tokens(batch) if labels is None else labels != -100
    example_index = mask.nonzero()[:, 0]
    weights = 1 / (mask.sum(dim=1)[example_index] * len(mask))
    return (logits[mask] if logits.dim() == 3 else logits), weights, mask


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
        student, teacher = setup.configurations()
        return cls(student.hidden_size, teacher.hidden_size)


def batch_agreement(
    student: torch.Tensor, teacher: torch.Tensor, batch: dict[str, torch.Tensor], problem_type: str
) -> dict[str, torch.Tensor]:
    """Measure how far the student's predictions for a batch agree with the teacher's.

    This is a metric, not a loss: it has no gradient.

    Args:
        student: logits in one of the shapes that `tkd_hf.objectives.base.rows_and_weights` takes.
        teacher: logits of the same shape, with the labels in the same order.
        batch: the batch that they belong to.
        problem_type: the problem type of the student.

    Returns:
        For classes, `{"agreement": …}`: the share of examples with the same predicted label. With several labels per
        example, all of them must agree. For tokens, it is the mean over examples of each example's share.
        For scores, `{"teacher_difference": …}`: the mean absolute difference.
    """
    problem_type = ProblemType(problem_type)
    student_rows, weights, mask = rows_and_weights(student.detach(), batch, problem_type)
    teacher_rows = teacher[mask] if mask is not None and teacher.dim() == 3 else teacher
    if problem_type.has_scores:
        return {"teacher_difference": (weights * (student_rows - teacher_rows).abs().mean(dim=-1)).sum()}
    same = problem_type.predict(student_rows) == problem_type.predict(teacher_rows)
    if problem_type.has_several_labels:
        same = same.all(dim=-1)
    return {"agreement": (weights * same).sum()}
