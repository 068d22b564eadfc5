# Copyright 2026 The tkd-hf authors. Licensed under the Apache License, Version 2.0.
"""TKD, a small BERT-like encoder (TKD-NLP, arXiv 2405.11704), and its heads.

The maths is BERT's (post-LayerNorm residual blocks), so that weights of BERT-like teachers fit; what differs is that
layers may have different numbers of heads and neurons, that padding is exact on either side and costs nothing, and that
a label of a whole text asks its last layer for one token alone.

This file travels with every saved student as remote code: it imports torch, transformers and the two files beside it,
configuration and layers, and nothing else.
"""

import importlib

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_tkd import TKDConfig
from .layers_tkd import (
    PACKED_LENGTH_MULTIPLE,
    Packing,
    TKDAttention,
    TKDEmbeddings,
    TKDLayer,
    default_position_ids,
    first_token,
    is_tracing,
)


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
        first_token_only: bool = False,
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
            first_token_only (`bool`, defaults to `False`): compute the last layer only for the first real token of each
                row, and return it as `pooler_output` of `(batch, hidden_size)`. A sequence classifier needs no other
                token. Ignored with flex attention, and while modules inside have hooks.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if position_ids is None:
            position_ids = default_position_ids(input_ids if inputs_embeds is None else inputs_embeds, attention_mask)
        self.embeddings.check_length(position_ids.shape[-1])
        watched = self.has_hooks()  # whoever looks inside sees the shape of the batch, and all tokens
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
        if first_token_only and not watched and self.can_attend_alone(mask, packing):
            first = first_token(hidden_states, attention_mask) if packing is None else packing.first(hidden_states)
            mask = mask if mask is None else mask[:, :, :1]  # the same for all that ask
            states = last(hidden_states, mask, asking=first.unsqueeze(1), packing=packing, **kwargs)
            return BaseModelOutputWithPooling(pooler_output=states.squeeze(1))
        hidden_states = last(hidden_states, mask, packing=packing, **kwargs)
        hidden_states = hidden_states if packing is None else packing.pad(hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=first_token(hidden_states, attention_mask) if first_token_only else None,
        )

    def packing(self, attention_mask: torch.Tensor | None) -> Packing | None:
        """How to leave out the padding of a batch, in training as in inference; the answers are the same.

        `None`, so that everything has the shape of the batch, where there is no padding, and where a graph is made.
        """
        if attention_mask is None or attention_mask.dim() != 2 or is_tracing():
            return None
        half = self.dtype.itemsize == 2 or torch.is_autocast_enabled("cpu")
        packing = Packing(attention_mask, PACKED_LENGTH_MULTIPLE if half and attention_mask.device.type == "cpu" else 1)
        return None if len(packing.places) >= attention_mask.numel() else packing

    def can_attend_alone(self, mask: torch.Tensor | None, packing: Packing | None) -> bool:
        """Whether first tokens may attend without the others: each row has one, and their mask can be cut out."""
        cut = mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 4)  # not those of flex attention
        return cut and (packing is None or bool(packing.lengths.all()))

    def has_hooks(self) -> bool:
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
        outputs = self.tkd(*inputs, first_token_only=True, **kwargs)
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
