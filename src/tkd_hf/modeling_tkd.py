# Copyright 2026 The tkd-hf authors. Licensed under the Apache License, Version 2.0.
"""TKD, a small BERT-like encoder (TKD-NLP, arXiv 2405.11704), and its heads.

The maths is BERT's (post-LayerNorm residual blocks), so that weights of BERT-like teachers fit; what differs is that
layers may have different numbers of heads and neurons, that padding is exact on either side and costs nothing, and that
a label of a whole text asks its last layer for one token alone.

This file travels with every saved student as remote code: it imports torch, transformers and the configuration beside
it, and nothing else.
"""

import importlib

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_tkd import TKDConfig


# What multiplies in half precision on CPUs (oneDNN) gets ready for each new size, which takes longer than multiplying:
# texts of a batch without their padding have ever another one, so that they are given one of few.
SIZES = 64  # tokens


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


class TKDPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, shared by the encoder and its heads.

    Weights are initialised by transformers itself: N(0, `initializer_range`) for linear layers and embeddings, zero
    biases, identity LayerNorms. The model has no buffer and no bare parameter that would need more.
    """

    config_class = TKDConfig
    base_model_prefix = "tkd"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # our losses are batch means: the Trainer has to divide by the accumulation steps
    _no_split_modules = ["TKDEmbeddings", "TKDLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": TKDLayer, "attentions": TKDAttention}

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers, for quantized weights, too: of any shape, and equal when they are saved once more.

        Raises:
            ValueError: for weights saved by optimum-quanto, of which transformers would make up what it cannot read.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # output_loading_info=True
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None and quantizer.pre_quantized and model.quantization_method == "quanto":
            raise ValueError(
                "transformers cannot read weights that optimum-quanto saved; load them with "
                "tkd_hf.quantization.quanto.load (pip install 'tkd-hf[quanto]')"
            )
        for module in model.modules():
            # Where the processor has AVX512-BF16, bitsandbytes (0.50) repacks 4-bit weights when they are first run:
            # that fails unless their shape is of multiples of 32 and 64, and the scales are then saved wrong.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return loaded

    def save_pretrained(self, *args, **kwargs):
        """As in transformers; a model that FSDP shares out is saved as what it is otherwise."""
        shared = type(self)
        # FSDP2 gives it a class of its own making, and transformers would have FSDP's source files travel with it
        self.__class__ = next(one for one in shared.__mro__ if not one.__module__.startswith("torch."))
        try:
            return super().save_pretrained(*args, **kwargs)
        finally:
            self.__class__ = shared

    @classmethod
    def from_teacher(cls, teacher, **kwargs) -> "TKDPreTrainedModel":
        """A student of this class that starts from the teacher's weights where they fit.

        Arguments and examples are those of `tkd_hf.student.student_from_teacher`. Unlike everything else in this file
        it needs the package (`pip install tkd-hf`).
        """
        # by name: transformers reads this file for imports, and would ask users of the remote code for tkd_hf
        student = importlib.import_module("tkd_hf.student")
        return student.student_from_teacher(teacher, model_class=cls, **kwargs)


class TKDModel(TKDPreTrainedModel):
    """The encoder: token ids to one vector a token.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf import TKDConfig, TKDModel

    >>> model = TKDModel(TKDConfig(num_hidden_layers=2))
    >>> model(input_ids=torch.tensor([[101, 7592, 102]])).last_hidden_state.shape
    torch.Size([1, 3, 512])

    ```
    """

    def __init__(self, config: TKDConfig):
        super().__init__(config)
        self.embeddings = TKDEmbeddings(config)
        self.layers = nn.ModuleList([TKDLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module):
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        first_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_ids (`(batch, length)`): token ids; or give `inputs_embeds`.
            attention_mask (`(batch, length)`, *optional*): 1 at real tokens, 0 at padding, which may be on either side,
                and for which nothing is computed: there the answer is 0 while no hooks look inside.
            token_type_ids (`(batch, length)`, *optional*): 0 by default; ignored when `type_vocab_size` is 0.
            position_ids (`(batch, length)`, *optional*): counted over the real tokens by default.
            inputs_embeds (`(batch, length, embedding_size)`, *optional*): in place of `input_ids`.
            first_only: of the last layer, compute and return only the first real token of each row, as `pooler_output`
                of `(batch, hidden_size)`: all that a label of the whole text needs. While hooks look inside, or with
                flex attention, everything is computed and returned.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if position_ids is None:
            position_ids = default_position_ids(input_ids if inputs_embeds is None else inputs_embeds, attention_mask)
        self.embeddings.check_length(position_ids.shape[-1])
        watched = self.is_watched()  # whoever looks inside sees the shape of the batch, and all tokens
        packing = None if watched else self.packing(attention_mask)
        if packing is not None:
            inputs = (input_ids, inputs_embeds, token_type_ids, position_ids)
            packed = [
                None if one is None else packing.pack(one.expand(*packing.shape, *one.shape[2:])) for one in inputs
            ]
            input_ids, inputs_embeds, token_type_ids, position_ids = packed
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word_embeddings(input_ids)
        hidden_states = self.embeddings(inputs_embeds, token_type_ids, position_ids)
        padded = hidden_states if packing is None else hidden_states.new_empty(*packing.shape, 1)  # says only its shape
        mask = create_bidirectional_mask(self.config, inputs_embeds=padded, attention_mask=attention_mask)
        *layers, last = self.layers
        for layer in layers:
            hidden_states = layer(hidden_states, mask, packing=packing, **kwargs)
        if first_only and not watched and self.can_ask_alone(mask, packing):
            first = first_token(hidden_states, attention_mask) if packing is None else packing.first(hidden_states)
            mask = mask if mask is None else mask[:, :, :1]  # the same for all that ask
            states = last(hidden_states, mask, asking=first.unsqueeze(1), packing=packing, **kwargs)
            return BaseModelOutputWithPooling(pooler_output=states.squeeze(1))
        hidden_states = last(hidden_states, mask, packing=packing, **kwargs)
        hidden_states = hidden_states if packing is None else packing.pad(hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=first_token(hidden_states, attention_mask) if first_only else None,
        )

    def packing(self, attention_mask: torch.Tensor | None) -> Packing | None:
        """How to leave out the padding of a batch, in training as in inference; the answers are the same.

        `None`, so that everything has the shape of the batch, where there is no padding, and where a graph is made.
        """
        if attention_mask is None or attention_mask.dim() != 2 or is_tracing():
            return None
        half = self.dtype.itemsize == 2 or torch.is_autocast_enabled("cpu")
        packing = Packing(attention_mask, SIZES if half and attention_mask.device.type == "cpu" else 1)
        return None if len(packing.places) >= attention_mask.numel() else packing

    def can_ask_alone(self, mask: torch.Tensor | None, packing: Packing | None) -> bool:
        """Whether first tokens may attend without the others: each row has one, and their mask can be cut out."""
        cut = mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 4)  # not those of flex attention
        return cut and (packing is None or bool(packing.lengths.all()))

    def is_watched(self) -> bool:
        """Whether hooks on modules inside see what passes through, those of `output_hidden_states` included."""
        inside = (module for part in (self.embeddings, self.layers) for module in part.modules())
        return any(one._forward_hooks or one._forward_pre_hooks for one in inside)


class TKDForSequenceClassification(TKDPreTrainedModel):
    """A label, several labels or a number for each text, read from its first token.

    `dense` and its activation (`config.pooler_act`) are what bert calls the pooler, distilbert the pre-classifier, and
    roberta and electra the head's dense layer. The loss follows `config.problem_type` as everywhere in transformers;
    when that is `None` it is inferred from the first labels seen (one output: regression; integer labels: one label a
    text; otherwise several).

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf import TKDConfig, TKDForSequenceClassification

    >>> model = TKDForSequenceClassification(TKDConfig(num_hidden_layers=2, num_labels=3))
    >>> model(input_ids=torch.tensor([[101, 7592, 102]]), labels=torch.tensor([2])).logits.shape
    torch.Size([1, 3])

    ```
    """

    _keep_in_fp32_modules = ["dense", "classifier"]  # which no quantizer of transformers converts

    def __init__(self, config: TKDConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.tkd = TKDModel(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.pooler_act]
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Inputs as in `TKDModel.forward`; `labels` of `(batch,)`, or `(batch, num_labels)` for several a text."""
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.tkd(*inputs, first_only=True, **kwargs)
        pooled = self.activation(self.dense(outputs.pooler_output.to(self.dense.bias.dtype)))
        logits = self.classifier(self.dropout(pooled))
        return SequenceClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class TKDForTokenClassification(TKDPreTrainedModel):
    """A label for each token; tokens labelled -100 do not count in the loss."""

    _keep_in_fp32_modules = ["classifier"]

    def __init__(self, config: TKDConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.tkd = TKDModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Inputs as in `TKDModel.forward`; `labels` of `(batch, length)`."""
        outputs = self.tkd(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state.to(self.classifier.bias.dtype)))
        return TokenClassifierOutput(
            loss=None if labels is None else self.loss_function(logits, labels, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class TKDForMaskedLM(TKDPreTrainedModel):
    """A token for each mask; tokens labelled -100 do not count in the loss. The decoder shares the word embeddings.

    Its dense layer is called `transform`, so that no sequence head takes it for its own `dense`.
    """

    _tied_weights_keys = {"decoder.weight": "tkd.embeddings.word_embeddings.weight"}

    def __init__(self, config: TKDConfig):
        super().__init__(config)
        self.tkd = TKDModel(config)
        self.transform = nn.Linear(config.hidden_size, config.embedding_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder

    def set_output_embeddings(self, value: nn.Module):
        self.decoder = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        prediction_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Inputs as in `TKDModel.forward`; `labels` of `(batch, length)`.

        With a boolean `prediction_mask` of `(batch, length)` only the tokens it selects are predicted, row by row, and
        the logits are `(selected, vocab_size)`: most of the cost of pre-training is in the logits nobody asks for.
        """
        outputs = self.tkd(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        states = outputs.last_hidden_state
        if prediction_mask is not None:
            states, labels = states[prediction_mask], None if labels is None else labels[prediction_mask]
        logits = self.decoder(self.norm(self.activation(self.transform(states))))
        return MaskedLMOutput(
            loss=None if labels is None else self.loss_function(logits, labels, self.config.vocab_size),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def classifier_dropout(config: TKDConfig) -> float:
    """Dropout before a classifier: its own, or that of the encoder."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


__all__ = [
    "TKDPreTrainedModel",
    "TKDModel",
    "TKDForSequenceClassification",
    "TKDForTokenClassification",
    "TKDForMaskedLM",
]
