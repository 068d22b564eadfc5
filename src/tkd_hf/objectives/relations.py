"""Self-attention relations: how tokens relate to each other in the last layer, whatever its width and heads."""

import math

import torch

from ..errors import InputError
from ..signals import Signals
from .attention import dot_products, heads_of
from .base import Objective, ObjectiveSetup, mean_over_tokens, real_tokens
from .divergences import forward_kl


class SelfAttentionRelations(Objective):
    """KL between relations of queries with queries, keys with keys, and values with values, mean of the three.

    A relation is the softmax over tokens of the scaled dot products of one token's vector with those of all others,
    after all heads' vectors were joined and cut into `relation_heads` parts. So teacher and student may differ in
    width and in heads, and nothing has to be projected.

    Inputs:
        `queries`, `keys` and `values` of both, (batch, length, width), of the student's last layer and the teacher's
        layer that it is mapped to.

    Requirements:
        a live teacher that reads the same tokens as the student.

    Args:
        teacher_layer: from 0.
        student_width, teacher_width: of a query in those layers, all heads together.
        relation_heads: must divide both widths; more of them make finer relations. By default the largest number up to
            the teacher's heads (`teacher_heads`) that does.

    Raises:
        InputError: if `relation_heads` does not divide both widths.

    Reference:
        MiniLMv2, Wang et al. 2021, arXiv 2012.15828: the last student layer alone, with the last layer of a teacher of
        base size or an upper middle one of a large teacher (`layer_map` chooses it).

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import SelfAttentionRelations
    >>> from tkd_hf.signals import Signals
    >>> def signals(width):
    ...     return Signals(*[None] * 2, *[(torch.ones(1, 5, width),)] * 3)
    >>> relations = SelfAttentionRelations(teacher_layer=0, student_width=6, teacher_width=8, teacher_heads=4)
    >>> relations.relation_heads
    2
    >>> relations(signals(6), signals(8), {"input_ids": torch.ones(1, 5)}).item()  # all tokens alike in both
    0.0

    ```
    """

    features = ("queries", "keys", "values")

    def __init__(
        self,
        teacher_layer: int,
        student_width: int,
        teacher_width: int,
        relation_heads: int | None = None,
        teacher_heads: int = 12,
    ):
        super().__init__()
        self.teacher_layer = teacher_layer
        common = math.gcd(student_width, teacher_width)
        if relation_heads is None:
            relation_heads = max(heads for heads in range(1, teacher_heads + 1) if common % heads == 0)
        if relation_heads < 1 or common % relation_heads:
            raise InputError(
                f"relation_heads={relation_heads} divides not both {student_width}, the width of a query in the "
                f"student's last layer, and {teacher_width} in the teacher's; choose a divisor of {common}"
            )
        self.relation_heads = relation_heads

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "SelfAttentionRelations":
        taught = setup.layer_map[-1]
        teacher_heads = heads_of(setup.teacher)[taught]
        return cls(
            taught,
            query_width(setup.student, setup.student.num_hidden_layers - 1),
            query_width(setup.teacher, taught),
            setup.args.relation_heads,
            teacher_heads,
        )

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = real_tokens(batch)
        losses = [
            mean_over_tokens(
                forward_kl(
                    self._log_relations(getattr(student, name)[-1], mask),
                    self._log_relations(getattr(teacher, name)[self.teacher_layer], mask),
                ).mean(dim=1),
                mask,
            )
            for name in self.features
        ]
        return torch.stack(losses).mean()

    def _log_relations(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(batch, relation heads, from, to) log-probabilities; those of padding are as good as 0 in both models."""
        scores = dot_products(states, states, self.relation_heads)
        # finite, so that 0 · log 0 in the divergence stays 0
        return scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min / 2).log_softmax(dim=-1)


def query_width(config, layer: int) -> int:
    """Width of a layer's queries, all heads together."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return heads_of(config)[layer] * head_dim
