"""Objective `embeddings`: bring the student's embedding outputs to the teacher's."""

import torch

from ..models.signals import Signals
from .base import ProjectedObjective, real_tokens
from .hidden import mean_squared_error


class Embeddings(ProjectedObjective):
    """Mean squared error between the outputs of the two embedding layers, which are the inputs of the first layers.

    Use it together with `hidden`, which leaves the embeddings out. It matters most if the student's embeddings start at
    random or are narrower than the teacher's.

    Inputs:
        `hidden_states` of both models; the first of them, (batch, length, width), are compared.

    Requirements:
        A live teacher with the student's tokenizer. If the widths differ, a projection from the student's to the
        teacher's is learned.

    Args:
        student_width: hidden size of the student.
        teacher_width: hidden size of the teacher.

    Reference:
        TinyBERT, Jiao et al. 2020, arXiv 1909.10351, equation 9.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import Embeddings
    >>> from tkd_hf.models.signals import Signals
    >>> student = Signals(hidden_states=(torch.full((1, 4, 8), 1.0),))
    >>> teacher = Signals(hidden_states=(torch.full((1, 4, 8), 3.0),))
    >>> Embeddings(8, 8)(student, teacher, {"input_ids": torch.ones(1, 4)}).item()
    4.0

    ```
    """

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        projected = self.projection(student.hidden_states[0])
        return mean_squared_error(projected, teacher.hidden_states[0], real_tokens(batch))
