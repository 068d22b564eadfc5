"""Objective `cosine`: turn the student's last hidden states in the direction of the teacher's."""

import torch
from torch.nn import functional as F

from ..models.signals import Signals
from .base import ProjectedObjective, mean_over_tokens, real_tokens


class CosineDistance(ProjectedObjective):
    """1 - cosine between the last hidden states of student and teacher, token by token.

    Use it as a light feature objective next to `logits`, as DistilBERT does. It looks at the last layers only and
    ignores the length of the vectors, so it needs no layer map; to copy inner layers use `hidden`.

    Inputs:
        `hidden_states` of both models; the last of them, (batch, length, width), are compared.

    Requirements:
        A live teacher with the student's tokenizer. If the widths differ, a projection from the student's to the
        teacher's is learned.

    Args:
        student_width: hidden size of the student.
        teacher_width: hidden size of the teacher.

    Reference:
        DistilBERT, Sanh et al. 2019, arXiv 1910.01108, section 3.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import CosineDistance
    >>> from tkd_hf.models.signals import Signals
    >>> student = Signals(hidden_states=(torch.tensor([[[1.0, 0.0]]]),))
    >>> teacher = Signals(hidden_states=(torch.tensor([[[0.0, 2.0]]]),))
    >>> CosineDistance(2, 2)(student, teacher, {"input_ids": torch.ones(1, 1)}).item()
    1.0

    ```
    """

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        projected = self.projection(student.hidden_states[-1])
        cosine = F.cosine_similarity(projected.float(), teacher.hidden_states[-1].float(), dim=-1)
        return mean_over_tokens(1 - cosine, real_tokens(batch))
