"""Attention: the student's heads are to look where the teacher's look."""

from collections.abc import Sequence

import torch

from ..errors import InputError
from ..signals import Signals
from .base import Objective, ObjectiveSetup, mean_over_tokens, real_tokens


class AttentionScores(Objective):
    """Mean squared error between attention scores q·k/√d, head by head, before the softmax.

    Inputs:
        `queries` and `keys` of both, (batch, length, width) for each layer. Scores from or to padding do not count.

    Requirements:
        a live teacher that reads the same tokens, and as many heads in each student layer as in the layer of the
        teacher that it is mapped to; with other numbers of heads use `relations`.

    Args:
        layer_map: the teacher's layer, from 0, of each student layer.
        heads: of each student layer.
        teacher_heads: of each teacher layer.

    Raises:
        InputError: if the numbers of heads differ.

    Reference:
        TinyBERT, Jiao et al. 2020, arXiv 1909.10351, equation 7: unnormalised scores converge faster than
        probabilities. The mean over layers, heads and tokens here. Scores are computed from what hooks read, so the
        models run with any implementation of attention.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import AttentionScores
    >>> from tkd_hf.signals import Signals
    >>> ones = (torch.ones(1, 3, 4),)
    >>> student, teacher = Signals(queries=ones, keys=ones), Signals(queries=ones, keys=(3 * ones[0],))
    >>> AttentionScores([0], heads=[1], teacher_heads=[1])(student, teacher, {"input_ids": torch.ones(1, 3)}).item()
    16.0

    ```
    """

    features = ("queries", "keys")

    def __init__(self, layer_map: Sequence[int], heads: Sequence[int], teacher_heads: Sequence[int]):
        super().__init__()
        self.layer_map = tuple(layer_map)
        self.heads = tuple(heads)
        for layer, taught in enumerate(layer_map):
            if heads[layer] != teacher_heads[taught]:
                raise InputError(
                    f"objective 'attention' compares head with head, but student layer {layer} has {heads[layer]} and "
                    f"layer {taught} of the teacher {teacher_heads[taught]}; use 'relations', which need not be equal"
                )

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "AttentionScores":
        return cls(setup.layer_map, heads_of(setup.student), heads_of(setup.teacher))

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = real_tokens(batch)
        losses = []
        for layer, taught in enumerate(self.layer_map):
            heads = self.heads[layer]
            own = dot_products(student.queries[layer], student.keys[layer], heads)
            wanted = dot_products(teacher.queries[taught], teacher.keys[taught], heads)
            differences = (own - wanted).square().mean(dim=1)  # (batch, from, to)
            differences = differences.masked_fill(~mask.unsqueeze(1), 0.0).sum(dim=-1) / mask.sum(dim=-1, keepdim=True)
            losses.append(mean_over_tokens(differences, mask))
        return torch.stack(losses).mean()


def dot_products(one: torch.Tensor, other: torch.Tensor, heads: int) -> torch.Tensor:
    """Scaled dot products of every token with every other: (batch, length, width) -> (batch, heads, length, length)."""
    one, other = (states.float().unflatten(-1, (heads, -1)).transpose(1, 2) for states in (one, other))
    return one @ other.transpose(-1, -2) * one.shape[-1] ** -0.5


def heads_of(config) -> list[int]:
    """Attention heads of each layer."""
    per_layer = getattr(config, "heads_per_layer", None)
    return list(per_layer or [config.num_attention_heads] * config.num_hidden_layers)
