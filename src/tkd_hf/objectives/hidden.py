"""Objective `hidden`: bring the outputs of the student's layers to those of the teacher's."""

from collections.abc import Sequence

import torch

from ..models.signals import Signals
from .base import ObjectiveSetup, ProjectedObjective, mean_over_tokens, real_tokens


class HiddenStates(ProjectedObjective):
    """Mean squared error between the outputs of student layers and of the teacher layers that they are mapped to.

    Use it in a stage before `logits`: the student learns the teacher's features first and its predictions afterwards.
    The choice of layers matters: the default maps each student layer to the teacher layer that it was copied from.

    Inputs:
        `hidden_states` of both models, (batch, length, width) for the embeddings and for each layer. The embeddings are
        not compared; the objective `embeddings` does that.

    Requirements:
        A live teacher with the student's tokenizer. If the widths differ, one projection from the student's to the
        teacher's is learned for all layers.

    Args:
        layer_map: for each student layer, the index (from 0) of the teacher layer that it learns from.
        student_width: hidden size of the student.
        teacher_width: hidden size of the teacher.

    Reference:
        TinyBERT, Jiao et al. 2020, arXiv 1909.10351, equation 8. Unlike there, the value is the mean over layers and
        not their sum, so that the weight does not depend on the student's depth.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import HiddenStates
    >>> from tkd_hf.models.signals import Signals
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
        student, teacher = setup.configurations()
        return cls(setup.layer_map, student.hidden_size, teacher.hidden_size)

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = real_tokens(batch)
        losses = []
        for layer, teacher_layer in enumerate(self.layer_map):
            # hidden_states[0] is the output of the embeddings
            projected = self.projection(student.hidden_states[layer + 1])
            losses.append(mean_squared_error(projected, teacher.hidden_states[teacher_layer + 1], mask))
        return torch.stack(losses).mean()


def mean_squared_error(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the squared error over the width, the real tokens and the examples, in float32.

    Args:
        student, teacher: (batch, length, width).
        mask: (batch, length) bool, the real tokens.
    """
    return mean_over_tokens((student.float() - teacher.float()).square().mean(dim=-1), mask)
