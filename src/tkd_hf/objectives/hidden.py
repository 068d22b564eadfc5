"""Hidden states: the student's layers are drawn to the teacher's."""

from collections.abc import Sequence

import torch

from ..signals import Signals
from .base import ObjectiveSetup, mean_over_tokens, real_tokens
from .projection import ProjectedObjective


class HiddenStates(ProjectedObjective):
    """Mean squared error between the outputs of student layers and those of the teacher's layers they are mapped to.

    Inputs:
        `hidden_states` of both, (batch, length, width) for the embeddings and each layer; the embeddings are left to
        the objective `embeddings`.

    Requirements:
        a live teacher that reads the same tokens as the student. Where the widths differ, one projection from the
        student's to the teacher's is learned for all layers.

    Args:
        layer_map: the teacher's layer, from 0, of each student layer.
        student_width, teacher_width: their hidden sizes.

    Reference:
        TinyBERT, Jiao et al. 2020, arXiv 1909.10351, equation 8; here the mean over layers, not their sum.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import HiddenStates
    >>> from tkd_hf.signals import Signals
    >>> zeros, ones = torch.zeros(1, 4, 8), torch.ones(1, 4, 8)
    >>> student, teacher = Signals(hidden_states=(zeros, zeros)), Signals(hidden_states=(zeros, zeros, ones))
    >>> HiddenStates([1], 8, 8)(student, teacher, {"input_ids": torch.ones(1, 4)}).item()
    1.0

    ```
    """

    def __init__(self, layer_map: Sequence[int], student_width: int, teacher_width: int):
        super().__init__(student_width, teacher_width)
        self.layer_map = tuple(layer_map)

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "HiddenStates":
        return cls(setup.layer_map, setup.student.hidden_size, setup.teacher.hidden_size)

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = real_tokens(batch)
        losses = [
            mean_squared_error(
                self.projection(student.hidden_states[layer + 1]), teacher.hidden_states[taught + 1], mask
            )
            for layer, taught in enumerate(self.layer_map)
        ]
        return torch.stack(losses).mean()


def mean_squared_error(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of vectors (batch, length, width), over width, real tokens and examples, in float32."""
    return mean_over_tokens((student.float() - teacher.float()).square().mean(dim=-1), mask)
