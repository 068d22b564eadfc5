"""Embeddings: what goes into the first layer is drawn to what goes into the teacher's."""

import torch

from ..signals import Signals
from .base import real_tokens
from .hidden import mean_squared_error
from .projection import ProjectedObjective


class Embeddings(ProjectedObjective):
    """Mean squared error between the outputs of the two embedding layers.

    Inputs:
        `hidden_states` of both; the first is the embeddings', (batch, length, width).

    Requirements:
        a live teacher that reads the same tokens as the student. Where the widths differ, a projection from the
        student's to the teacher's is learned.

    Args:
        student_width, teacher_width: their hidden sizes.

    Reference:
        TinyBERT, Jiao et al. 2020, arXiv 1909.10351, equation 9.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import Embeddings
    >>> from tkd_hf.signals import Signals
    >>> student, teacher = (Signals(hidden_states=(torch.full((1, 4, 8), value),)) for value in (1.0, 3.0))
    >>> Embeddings(8, 8)(student, teacher, {"input_ids": torch.ones(1, 4)}).item()
    4.0

    ```
    """

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        projected = self.projection(student.hidden_states[0])
        return mean_squared_error(projected, teacher.hidden_states[0], real_tokens(batch))
