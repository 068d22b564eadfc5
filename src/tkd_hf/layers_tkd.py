# Copyright 2026 The tkd-hf authors. Licensed under the Apache License, Version 2.0.
"""What TKD is made of: embeddings, attention and feed-forward, and batches without their padding.

Like modeling_tkd.py, which puts it together, it travels with every saved student as remote code.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_tkd import TKDConfig


# What multiplies in half precision on CPUs (oneDNN) gets ready for each new size, which takes longer than multiplying:
# texts of a batch without their padding have ever another one, so that they are given one of few.
PACKED_LENGTH_MULTIPLE = 64  # tokens


def default_position_ids(embeddings: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Positions counted over real tokens, so that padding on either side does not shift them.

    Args:
        embeddings (`(batch, length, width)`): says the length and the device.
        attention_mask (`(batch, length)`, *optional*): nonzero at real tokens. Masks of other ranks say nothing about
            where a sentence starts, and are ignored as no mask is.

    Returns:
        `(batch, length)`, or `(1, length)` without a mask.
    """
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(embeddings.shape[1], device=embeddings.device).unsqueeze(0)
    return ((attention_mask != 0).long().cumsum(dim=1) - 1).clamp(min=0)


def sinusoidal_positions(position_ids: torch.Tensor, width: int) -> torch.Tensor:
    """Interleaved sines and cosines (arXiv 1706.03762): `(batch, length)` -> `(batch, length, width)`."""
    frequencies = 10000 ** (-torch.arange(0, width, 2, device=position_ids.device) / width)
    angles = position_ids.unsqueeze(-1) * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def first_token(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """First real token of each row, which left padding moves: `(batch, length, width)` -> `(batch, width)`."""
    if attention_mask is None or attention_mask.dim() != 2:
        return hidden_states[:, 0]
    rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
    return hidden_states[rows, (attention_mask != 0).int().argmax(dim=1).to(hidden_states.device)]


def is_tracing() -> bool:
    """Whether a graph is being made, in which nothing may depend on what is in a tensor."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class Packing:
    """Rows of a padded batch without their padding: one sequence of all real tokens, and the way back.

    Args:
        attention_mask (`(batch, length)`): nonzero at real tokens.
        multiple: up to which the last token is repeated; the way back leaves these out.
    """

    def __init__(self, attention_mask: torch.Tensor, multiple: int = 1):
        self.shape = attention_mask.shape
        places = attention_mask.flatten().nonzero().flatten()
        self.tokens = len(places)
        self.places = torch.cat([places, places[-1:].expand(-self.tokens % multiple)])
        self.lengths = (attention_mask != 0).sum(dim=1)

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, length, ...)` -> `(1, tokens, ...)`, a multiple of tokens."""
        return states.flatten(0, 1).index_select(0, self.places.to(states.device)).unsqueeze(0)

    def pad(self, states: torch.Tensor) -> torch.Tensor:
        """`(1, tokens, ...)` -> `(batch, length, ...)`, 0 at padding."""
        padded = states.new_zeros(self.shape.numel(), *states.shape[2:])
        places = self.places[: self.tokens].to(states.device)
        return padded.index_copy(0, places, states.squeeze(0)[: self.tokens]).unflatten(0, self.shape)

    def first(self, states: torch.Tensor) -> torch.Tensor:
        """The first real token of each row: `(1, tokens, width)` -> `(batch, width)`."""
        starts = self.lengths.cumsum(dim=0) - self.lengths
        return states.squeeze(0).index_select(0, starts.to(states.device))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q kᵀ · scaling + mask) v over `(batch, heads, length, head_dim)`, written out so that it can be seen.

    Returns:
        the mixed values `(batch, length, heads, head_dim)` and the probabilities `(batch, heads, length, length)`.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = nn.functional.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


class TKDEmbeddings(nn.Module):
    """Words + positions + token types, normalised, then brought to `hidden_size` where they are factorised."""

    def __init__(self, config: TKDConfig):
        super().__init__()
        width = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = (
            nn.Embedding(config.max_position_embeddings, width) if config.position_embedding_type == "learned" else None
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor,
    ) -> torch.Tensor:
        embeddings = inputs_embeds + self.positions(position_ids).to(inputs_embeds.dtype)
        if self.token_type_embeddings is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros_like(inputs_embeds[..., 0], dtype=torch.long)
            embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        embeddings = self.dropout(self.norm(embeddings))
        return embeddings if self.projection is None else self.projection(embeddings)

    def positions(self, position_ids: torch.Tensor) -> torch.Tensor:
        if self.position_embeddings is None:
            return sinusoidal_positions(position_ids, self.norm.normalized_shape[0])
        return self.position_embeddings(position_ids)

    def check_length(self, length: int):
        """Say what is wrong with a text that is too long, before the embedding table fails with an index error."""
        if self.position_embeddings is None or is_tracing():  # where a comparison would fix the length
            return
        longest = self.position_embeddings.num_embeddings
        if length > longest:
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_position_embeddings={longest}; "
                f"truncate it (tokenizer(..., truncation=True, max_length={longest}))"
            )


class TKDAttention(nn.Module):
    """Multi-head self-attention; `query`, `key` and `value` are modules of their own so that hooks can read them."""

    is_causal = False  # read by the sdpa and flash implementations

    def __init__(self, config: TKDConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        width = config.heads_of(layer_idx) * config.head_dim
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        self.output = nn.Linear(width, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        packing: Packing | None = None,
        asking: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`asking`, `(batch, 1, width)`, are the states that attend to all others; by default all do."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        query = self.query(hidden_states if asking is None else asking)
        key, value = self.key(hidden_states), self.value(hidden_states)
        if packing is not None:  # only attention needs to know which token is of which row
            query = packing.pad(query) if asking is None else query
            key, value = packing.pad(key), packing.pad(value)
        mixed, probabilities = attend(
            self,
            *map(self.split_heads, (query, key, value)),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        mixed = mixed.flatten(-2)
        return self.output(mixed if packing is None or asking is not None else packing.pack(mixed)), probabilities

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, length, heads * head_dim)` -> `(batch, heads, length, head_dim)`."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class TKDFeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: TKDConfig, layer_idx: int):
        super().__init__()
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size_of(layer_idx))
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size_of(layer_idx), config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.output(self.activation(self.intermediate(hidden_states)))


class TKDLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each added to its input and then normalised (post-LayerNorm)."""

    def __init__(self, config: TKDConfig, layer_idx: int):
        super().__init__()
        self.attention = TKDAttention(config, layer_idx)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = TKDFeedForward(config, layer_idx)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        asking: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended, _ = self.attention(hidden_states, attention_mask, asking=asking, **kwargs)
        hidden_states = self.attention_norm((hidden_states if asking is None else asking) + self.dropout(attended))
        return self.feed_forward_norm(hidden_states + self.dropout(self.feed_forward(hidden_states)))
