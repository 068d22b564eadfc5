# Copyright 2026 The tkd-hf authors. Licensed under the Apache License, Version 2.0.
"""Building blocks of TKD: embeddings, attention, feed-forward, their base class, and packing, which removes padding.

modeling_tkd.py builds the models from these. `save_pretrained` copies both files next to the weights, so that a model
loads with `trust_remote_code=True` where tkd-hf is not installed.
"""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging

from .configuration_tkd import TKDConfig, known


logger = logging.get_logger(__name__)

# Modules whose forward hooks take tensors of any shape: those of torch shard or reparameterize weights, those of
# transformers start gradients at the embeddings, or record outputs on request.
SHAPE_INDEPENDENT_HOOKS = ("torch.", "transformers.modeling_utils", "transformers.utils.output_capturing")

# oneDNN prepares a bf16 kernel for every new matrix size, and that takes longer than the product itself. Packed batches
# differ in length, so round them up to a multiple of this many tokens.
PACKED_LENGTH_MULTIPLE = 64

ModelType = TypeVar("ModelType", bound="TKDPreTrainedModel")


def default_position_ids(embeddings: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the position of every token, counted over real tokens so that padding on either side does not matter.

    Args:
        embeddings (`(batch, length, ...)`): token ids or embeddings; only their length and device are read.
        attention_mask (`(batch, length)`, *optional*): nonzero at real tokens. A mask of another rank does not show
            where a text starts and is ignored: positions then count from the left edge.

    Returns:
        `(batch, length)`, or `(1, length)` unless the mask has two dimensions.
    """
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(embeddings.shape[1], device=embeddings.device).unsqueeze(0)
    return ((attention_mask != 0).long().cumsum(dim=1) - 1).clamp(min=0)


def sinusoidal_positions(position_ids: torch.Tensor, width: int) -> torch.Tensor:
    """Return interleaved sines and cosines (arXiv 1706.03762): `(batch, length)` -> `(batch, length, width)`."""
    frequencies = 10000 ** (-torch.arange(0, width, 2, device=position_ids.device) / width)
    angles = position_ids.unsqueeze(-1) * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def first_token(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the first real token per row: `(batch, length, width)` -> `(batch, width)`.

    Padding on the left moves that token away from index 0.
    """
    if attention_mask is None or attention_mask.dim() != 2:
        return hidden_states[:, 0]
    rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
    return hidden_states[rows, (attention_mask != 0).int().argmax(dim=1).to(hidden_states.device)]


def is_tracing() -> bool:
    """Return whether torch traces or compiles a graph, in which no decision may depend on the values of a tensor."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class Packing:
    """Remove the padding of a batch by joining its real tokens into one long sequence, and put it back.

    Linear layers and LayerNorms treat every token alone, so they give the same result on the joined sequence and cost
    less. Only attention needs the batch, with `pad`, to know which tokens belong to the same row.

    Args:
        attention_mask (`(batch, length)`): nonzero at real tokens.
        multiple: round the number of packed tokens up to a multiple of this by repeating the last token. `pad` drops
            the repetitions.
    """

    def __init__(self, attention_mask: torch.Tensor, multiple: int = 1):
        self.shape = attention_mask.shape
        real_indices = attention_mask.flatten().nonzero().flatten()
        self.num_tokens = len(real_indices)
        repetitions = real_indices[-1:].expand(-self.num_tokens % multiple)
        self.indices = torch.cat([real_indices, repetitions])
        self.lengths = (attention_mask != 0).sum(dim=1)

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """Keep the real tokens: `(batch, length, ...)` -> `(1, packed_length, ...)`."""
        return states.flatten(0, 1).index_select(0, self.indices.to(states.device)).unsqueeze(0)

    def pad(self, states: torch.Tensor) -> torch.Tensor:
        """Restore the batch: `(1, packed_length, ...)` -> `(batch, length, ...)`, with zeros at padding."""
        padded = states.new_zeros(self.shape.numel(), *states.shape[2:])
        indices = self.indices[: self.num_tokens].to(states.device)
        return padded.index_copy(0, indices, states.squeeze(0)[: self.num_tokens]).unflatten(0, self.shape)

    def first_tokens(self, states: torch.Tensor) -> torch.Tensor:
        """Return the first real token per row: `(1, packed_length, width)` -> `(batch, width)`.

        Every row must have a real token.
        """
        starts = self.lengths.cumsum(dim=0) - self.lengths
        return states.squeeze(0).index_select(0, starts.to(states.device))


def can_attend_alone(mask: torch.Tensor | None, packing: Packing | None) -> bool:
    """Return whether the first tokens can attend without the others.

    Every row must have a real token, and the mask must be sliceable, which that of flex attention is not.
    """
    sliceable = mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 4)
    return sliceable and (packing is None or bool(packing.lengths.all()))


def records_layers(config: TKDConfig, kwargs: dict) -> bool:
    """Return whether hidden states or attentions of the layers are requested, by arguments or configuration."""
    names = ("output_hidden_states", "output_attentions")
    return any(kwargs.get(name, getattr(config, name, False)) for name in names)


def warn_about_hooks(encoder: nn.Module) -> None:
    """Warn once if a module inside an encoder has a forward hook that may rely on the shape of the batch."""
    if is_tracing():
        return
    hooked_modules = [module for module in encoder.modules() if module._forward_hooks or module._forward_pre_hooks]
    for module in hooked_modules:
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        origins = [getattr(hook, "__module__", None) or "" for hook in hooks]
        if module is not encoder and not all(origin.startswith(SHAPE_INDEPENDENT_HOOKS) for origin in origins):
            logger.warning_once(
                f"a {type(module).__name__} inside {type(encoder).__name__} has a forward hook, but the model only "
                "computes the tokens that its output needs, without padding; if the hook needs every token, in the "
                "shape of the batch, set model.base_model.compute_all_tokens = True"
            )


def classifier_dropout(config: TKDConfig) -> float:
    """Return the dropout before a classifier: `classifier_dropout`, or else that of the encoder."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute softmax(q kᵀ · scaling + mask) v step by step, so that the attention probabilities can be returned.

    Args:
        query (`(batch, heads, queries, head_dim)`): one query per token whose output is needed.
        key, value (`(batch, heads, length, head_dim)`): of all tokens.
        attention_mask: added to the scores, and broadcast to their shape.

    Returns:
        The attention output, `(batch, queries, heads, head_dim)`, and the probabilities, `(batch, heads, queries,
        length)`.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = nn.functional.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


class TKDEmbeddings(nn.Module):
    """Sum of word, position and token type embeddings, then LayerNorm; projected to `hidden_size` if it differs."""

    def __init__(self, config: TKDConfig):
        super().__init__()
        width = known(config.embedding_size)
        self.word_embeddings: nn.Module = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
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

    def check_length(self, length: int) -> None:
        """Raise a ValueError if a sequence is too long; the position embeddings would fail with an index error.

        Does nothing in a traced graph, as the comparison would fix the length for which the graph is valid.
        """
        if self.position_embeddings is None or is_tracing():
            return
        longest = self.position_embeddings.num_embeddings
        if length > longest:
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_position_embeddings={longest}; "
                f"truncate it (tokenizer(..., truncation=True, max_length={longest}))"
            )


class TKDAttention(nn.Module):
    """Multi-head self-attention. Separate `query`, `key` and `value` modules let hooks record each of them."""

    is_causal = False  # read by the sdpa and flash implementations

    def __init__(self, config: TKDConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = known(config.head_dim)
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        width = config.heads_of(layer_idx) * self.head_dim
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        self.output = nn.Linear(width, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        packing: Packing | None = None,
        query_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Let tokens attend to each other.

        Args:
            hidden_states: `(batch, length, hidden_size)`, or `(1, packed_length, hidden_size)` with `packing`.
            attention_mask: as the attention implementation takes it.
            packing: how `hidden_states` were packed.
            query_states (`(batch, 1, hidden_size)`, *optional*): the only token per row whose output is computed. By
                default the output is computed for every token of `hidden_states`.

        Returns:
            The output, in the shape of `hidden_states` or of `query_states`, and the attention probabilities if the
            implementation gives them.
        """
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        query = self.query(hidden_states if query_states is None else query_states)
        key, value = self.key(hidden_states), self.value(hidden_states)
        if packing is not None:
            query = packing.pad(query) if query_states is None else query
            key, value = packing.pad(key), packing.pad(value)
        output, probabilities = attend(
            self,
            *map(self.split_heads, (query, key, value)),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        output = output.flatten(-2)
        if packing is not None and query_states is None:
            output = packing.pack(output)
        return self.output(output), probabilities

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
        query_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attention_output, _ = self.attention(hidden_states, attention_mask, query_states=query_states, **kwargs)
        residual = hidden_states if query_states is None else query_states
        hidden_states = self.attention_norm(residual + self.dropout(attention_output))
        return self.feed_forward_norm(hidden_states + self.dropout(self.feed_forward(hidden_states)))


class TKDPreTrainedModel(PreTrainedModel):
    """Base class of the encoder and of the models with a head: loading, saving and initialisation.

    transformers initialises the weights: N(0, `initializer_range`) for linear layers and embeddings, zero biases,
    identity LayerNorms. All parameters belong to such modules, so no `_init_weights` is needed here.

    `import tkd_hf` adds the class method `from_teacher` (see `tkd_hf.models.registration`). It needs the package, so a
    copy of this file in a model's folder does not have it.
    """

    config: TKDConfig
    config_class = TKDConfig
    base_model_prefix = "tkd"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are batch means, so the Trainer must divide by the accumulation steps
    _no_split_modules = ["TKDEmbeddings", "TKDLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": TKDLayer, "attentions": TKDAttention}
    from_teacher: ClassVar[Callable[..., PreTrainedModel]]  # assigned by tkd_hf.models.registration
    init_report: Any  # assigned by tkd_hf.models.student to the students that it builds

    @classmethod
    def from_pretrained(cls: type[ModelType], *args: Any, **kwargs: Any) -> ModelType:
        """Load a model as in transformers; bitsandbytes weights of any shape can be run and saved again unchanged.

        Raises:
            ValueError: if optimum-quanto saved the weights. transformers cannot read them, and would initialise them at
                random.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None and quantizer.pre_quantized and model.quantization_method == "quanto":
            raise ValueError(
                "transformers cannot read weights that optimum-quanto saved; load them with "
                "tkd_hf.quantization.quanto.load (pip install 'tkd-hf[quanto]')"
            )
        module: Any
        for module in model.modules():
            # On processors with AVX512-BF16, bitsandbytes (0.50) repacks 4-bit weights in their first forward pass.
            # That fails if their shape is not a multiple of 32 and 64, and makes save_pretrained write wrong scales.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return loaded

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save a model as in transformers, with the source files of its own class even if FSDP2 has sharded it."""
        # FSDP2 gives a sharded model a subclass that torch defines. transformers looks up which source files to copy by
        # the module and the name of the class, so the subclass takes those of the class that it was made from.
        own_class = next(base for base in type(self).__mro__ if not base.__module__.startswith("torch."))
        if own_class is not type(self):
            type(self).__name__ = own_class.__name__
            type(self).__module__ = own_class.__module__
        super().save_pretrained(*args, **kwargs)
