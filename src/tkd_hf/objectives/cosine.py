"""Cosine: the student's last hidden states are turned into the direction of the teacher's."""

import torch
from torch.nn import functional as F

from ..signals import Signals
from .base import mean_over_tokens, real_tokens
from .projection import ProjectedObjective


class CosineDistance(ProjectedObjective):
    """1 − cosine between the last hidden states of student and teacher, token by token.

    Inputs:
        `hidden_states` of both, of which the last, (batch, length, width), are compared.

    Requirements:
        a live teacher that reads the same tokens as the student. Where the widths differ, a projection from the
        student's to the teacher's is learned.

    Args:
        student_width, teacher_width: their hidden sizes.

    Reference:
        DistilBERT, Sanh et al. 2019, arXiv 1910.01108, section 3.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import CosineDistance
    >>> from tkd_hf.signals import Signals
    >>> student, teacher = (Signals(hidden_states=(torch.tensor([[v]]),)) for v in ([1.0, 0.0], [0.0, 2.0]))
    >>> CosineDistance(2, 2)(student, teacher, {"input_ids": torch.ones(1, 1)}).item()
    1.0

    ```
    """

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        projected = self.projection(student.hidden_states[-1])
        cosine = F.cosine_similarity(projected.float(), teacher.hidden_states[-1].float(), dim=-1)
        return mean_over_tokens(1 - cosine, real_tokens(batch))
