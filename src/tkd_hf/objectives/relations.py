"""Objective `relations`: give the student's last layer the teacher's relations between tokens."""

import math

import torch
from transformers import PretrainedConfig

from ..core.errors import InputError
from ..models.signals import Signals
from .attention import dot_products, heads_of
from .base import Objective, ObjectiveSetup, mean_over_tokens, real_tokens
from .divergences import forward_kl


class SelfAttentionRelations(Objective):
    """KL between the token relations of student and teacher: query-query, key-key and value-value, averaged.

    Use it if the student differs from its teacher in width or in number of heads, or to pre-train a bare encoder for
    many tasks. It needs no projection, and it compares a single pair of layers.

    A relation is a softmax over tokens of the scaled dot products of one token's vector with those of all tokens. To
    compare models with different heads, the vectors of all heads are joined and split into `relation_heads` parts.

    Inputs:
        `queries`, `keys` and `values` of both models, (batch, length, width), from the student's last layer and the
        teacher layer that it is mapped to.

    Requirements:
        A live teacher with the student's tokenizer.

    Args:
        teacher_layer: index (from 0) of the teacher layer to learn from.
        student_width: width of a query in the student's last layer, all heads together.
        teacher_width: width of a query in the teacher layer, all heads together.
        relation_heads: number of parts; must divide both widths. More parts make finer relations. The default is the
            largest divisor of both widths that is at most `teacher_heads`.
        teacher_heads: number of heads of the teacher layer.

    Raises:
        InputError: if `relation_heads` does not divide both widths.

    Reference:
        MiniLMv2, Wang et al. 2021, arXiv 2012.15828. The paper uses the last layer of a base-size teacher, but an upper
        middle layer of a large one; choose that with `layer_map`.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.objectives import SelfAttentionRelations
    >>> from tkd_hf.models.signals import Signals
    >>> def signals(width):
    ...     return Signals(*[None] * 2, *[(torch.ones(1, 5, width),)] * 3)
    >>> relations = SelfAttentionRelations(teacher_layer=0, student_width=6, teacher_width=8, teacher_heads=4)
    >>> relations.relation_heads
    2
    >>> relations(signals(6), signals(8), {"input_ids": torch.ones(1, 5)}).item()  # in both, all tokens are the same
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
                f"relation_heads={relation_heads} must divide both query widths, {student_width} (student) and "
                f"{teacher_width} (teacher); choose a divisor of {common}"
            )
        self.relation_heads = relation_heads

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "SelfAttentionRelations":
        student, teacher = setup.configurations()
        teacher_layer = setup.layer_map[-1]
        return cls(
            teacher_layer,
            query_width(student, student.num_hidden_layers - 1),
            query_width(teacher, teacher_layer),
            setup.args.relation_heads,
            heads_of(teacher)[teacher_layer],
        )

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = real_tokens(batch)
        losses = []
        for name in self.features:
            student_relations = self._log_relations(getattr(student, name)[-1], mask)
            teacher_relations = self._log_relations(getattr(teacher, name)[self.teacher_layer], mask)
            divergence = forward_kl(student_relations, teacher_relations).mean(dim=1)  # (batch, from token)
            losses.append(mean_over_tokens(divergence, mask))
        return torch.stack(losses).mean()

    def _log_relations(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities, (batch, relation heads, from token, to token); padding gets a probability of 0."""
        scores = dot_products(states, states, self.relation_heads)
        # a finite minimum instead of -inf keeps 0 · log 0 in the divergence from being NaN
        return scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min / 2).log_softmax(dim=-1)


def query_width(config: PretrainedConfig, layer: int) -> int:
    """Return the width of a layer's queries, all heads together."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return heads_of(config)[layer] * head_dim
