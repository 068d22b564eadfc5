"""Objective `attention`: give the student's attention heads the scores of the teacher's."""

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from ..core.errors import InputError
from ..models.signals import Signals
from .base import Objective, ObjectiveSetup, mean_over_tokens, real_tokens


class AttentionScores(Objective):
    """Mean squared error between the attention scores q·k/√d of student and teacher, before the softmax.

    Use it together with `hidden` and `embeddings` in a feature stage, as TinyBERT does, if the student kept the
    teacher's heads. If their numbers of heads differ, for example after pruning, use `relations`.

    Inputs:
        `queries` and `keys` of both models, (batch, length, width) per layer. Scores from and to padding do not count.

    Requirements:
        A live teacher with the student's tokenizer. Each student layer needs as many heads as the teacher layer that it
        is mapped to.

    Args:
        layer_map: for each student layer, the index (from 0) of the teacher layer that it learns from.
        heads: number of heads of each student layer.
        teacher_heads: number of heads of each teacher layer.

    Raises:
        InputError: if mapped layers differ in their number of heads.

    Reference:
        TinyBERT, Jiao et al. 2020, arXiv 1909.10351, equation 7: scores before the softmax converge faster than
        probabilities. Unlike there, the value is the mean over layers, heads and tokens. Scores are computed from
        recorded queries and keys, so any attention implementation (sdpa, flash) works.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import AttentionScores
    >>> from tkd_hf.models.signals import Signals
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
        for layer, teacher_layer in enumerate(layer_map):
            if heads[layer] != teacher_heads[teacher_layer]:
                raise InputError(
                    f"objective 'attention' compares head with head, but student layer {layer} has {heads[layer]} "
                    f"heads and teacher layer {teacher_layer} has {teacher_heads[teacher_layer]}; use 'relations', "
                    "which works with different numbers of heads"
                )

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "AttentionScores":
        student, teacher = setup.configurations()
        return cls(setup.layer_map, heads_of(student), heads_of(teacher))

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = real_tokens(batch)
        losses = []
        for layer, teacher_layer in enumerate(self.layer_map):
            heads = self.heads[layer]
            student_scores = dot_products(student.queries[layer], student.keys[layer], heads)
            teacher_scores = dot_products(teacher.queries[teacher_layer], teacher.keys[teacher_layer], heads)
            errors = (student_scores - teacher_scores).square().mean(dim=1)  # (batch, from token, to token)
            errors = errors.masked_fill(~mask.unsqueeze(1), 0.0).sum(dim=-1) / mask.sum(dim=-1, keepdim=True)
            losses.append(mean_over_tokens(errors, mask))
        return torch.stack(losses).mean()


def dot_products(left: torch.Tensor, right: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the scaled dot products of every token with every token, per head.

    Args:
        left, right: (batch, length, width), with all heads side by side.
        heads: number of heads that the width is split into.

    Returns:
        (batch, heads, length of left, length of right), in float32.
    """
    left, right = (states.float().unflatten(-1, (heads, -1)).transpose(1, 2) for states in (left, right))
    return left @ right.transpose(-1, -2) * left.shape[-1] ** -0.5


def heads_of(config: PretrainedConfig) -> list[int]:
    """Return the number of attention heads of each layer."""
    per_layer = getattr(config, "heads_per_layer", None)
    return list(per_layer or [config.num_attention_heads] * config.num_hidden_layers)
