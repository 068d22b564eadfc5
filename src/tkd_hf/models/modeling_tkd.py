# Copyright 2026 The tkd-hf authors. Licensed under the Apache License, Version 2.0.
"""TKD, a small BERT-like encoder (TKD-NLP, arXiv 2405.11704), with heads for texts, tokens and masked words.

The maths is BERT's (residual blocks with a LayerNorm after each), so that the weights of BERT-like teachers fit. Three
things differ. Layers may have different numbers of heads and neurons. Padding, on either side, changes no result and
costs nothing outside attention. A sequence classifier computes its last layer for the first token only. Forward hooks
need `TKDModel.compute_all_tokens` to see the other tokens.

`save_pretrained` copies this file next to the weights, so that a model loads with `trust_remote_code=True` where tkd-hf
is not installed. It therefore imports only torch, transformers, configuration_tkd.py and layers_tkd.py.
"""

import torch
from torch import nn
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

from .configuration_tkd import TKDConfig, known
from .layers_tkd import (
    PACKED_LENGTH_MULTIPLE,
    Packing,
    TKDEmbeddings,
    TKDLayer,
    TKDPreTrainedModel,
    can_attend_alone,
    classifier_dropout,
    default_position_ids,
    first_token,
    is_tracing,
    records_layers,
    warn_about_hooks,
)


class TKDModel(TKDPreTrainedModel):
    """The encoder: turns token ids into one vector of `hidden_size` per token.

    By default it computes only what its output needs. The real tokens of a padded batch become one long row, and a
    sequence classifier gets its last layer for the first token of each text only. The output is the same up to
    rounding, and plain calls, pipelines and training all get faster. But forward hooks on the modules inside see these
    tensors: `(1, packed_length, width)` and, in that last layer, `(batch, 1, width)`.

    Set `compute_all_tokens` if you hook modules inside, for example to explain a prediction. Every module then computes
    all tokens, in the shape `(batch, length, width)`. A model with a head has its encoder as `base_model`, so write
    `model.base_model.compute_all_tokens = True`. If a module has a hook and the switch is off, the model logs a warning
    once. `output_hidden_states=True` and `output_attentions=True` do not need the switch.

    Attributes:
        compute_all_tokens (`bool`): whether to compute every token, padding included, in the shape of the batch. It is
            `False` in a new or loaded model, and is not saved.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf import TKDConfig, TKDModel

    >>> model = TKDModel(TKDConfig(num_hidden_layers=2))
    >>> model(input_ids=torch.tensor([[101, 7592, 102]])).last_hidden_state.shape
    torch.Size([1, 3, 512])

    >>> model.compute_all_tokens = True
    >>> hook = model.layers[0].register_forward_hook(lambda layer, inputs, output: print(output.shape))
    >>> padded = {"input_ids": torch.tensor([[101, 7592, 102, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    >>> outputs = model(**padded)
    torch.Size([1, 4, 512])

    ```
    """

    def __init__(self, config: TKDConfig):
        super().__init__(config)
        self.compute_all_tokens = False
        self.embeddings = TKDEmbeddings(config)
        self.layers = nn.ModuleList([TKDLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # type: ignore[misc]  # TransformersKwargs also has position_ids, as for transformers' own models
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
        Encode a batch of texts. Padding is removed before the first layer and put back after the last, with zeros.

        Padding stays, and its states are meaningless, in a traced graph, with `compute_all_tokens`, in training with
        gradient checkpointing, and if hidden states or attentions of the layers are requested.

        Args:
            input_ids (`(batch, length)`): token ids, unless `inputs_embeds` is given.
            attention_mask (`(batch, length)`, *optional*): 1 at real tokens, 0 at padding on either side. By default
                all tokens are real.
            token_type_ids (`(batch, length)`, *optional*): 0 by default; ignored if `type_vocab_size` is 0.
            position_ids (`(batch, length)`, *optional*): counted over the real tokens by default.
            inputs_embeds (`(batch, length, embedding_size)`, *optional*): word embeddings instead of `input_ids`.
            first_token_only (`bool`, defaults to `False`): compute the last layer only for the first real token of each
                row, and return it as `pooler_output` of `(batch, hidden_size)` without `last_hidden_state`. Sequence
                classifiers need no other token. With flex attention, for a row without real tokens, with
                `compute_all_tokens`, and if hidden states or attentions are requested, every token is computed and both
                are returned.

        Returns:
            `last_hidden_state` of `(batch, length, hidden_size)`, unless only first tokens were computed, and
            `pooler_output` with `first_token_only`.

        Raises:
            ValueError: if both or neither of `input_ids` and `inputs_embeds` are given, or if the texts are longer than
                the position embeddings.
        """
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if tokens is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if position_ids is None:
            position_ids = default_position_ids(tokens, attention_mask)
        self.embeddings.check_length(position_ids.shape[-1])
        # checkpointing with `use_reentrant=True` gives no gradient to keyword arguments, and `query_states` is one
        checkpointed = self.training and any(layer.gradient_checkpointing for layer in self.layers)
        all_tokens = self.compute_all_tokens or checkpointed or records_layers(self.config, kwargs)
        packing = None if all_tokens else self.create_packing(attention_mask)
        if packing is not None or (first_token_only and not all_tokens):
            warn_about_hooks(self)
        if packing is not None:
            inputs = (input_ids, inputs_embeds, token_type_ids, position_ids)
            input_ids, inputs_embeds, token_type_ids, position_ids = (
                # a single row of positions or types is valid for every row of the batch
                None if tensor is None else packing.pack(tensor.expand(*packing.shape, *tensor.shape[2:]))
                for tensor in inputs
            )
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word_embeddings(input_ids)
        hidden_states = self.embeddings(inputs_embeds, token_type_ids, position_ids)
        # only the shape, dtype and device of these embeddings are read
        batch_embeds = hidden_states if packing is None else hidden_states.new_empty(*packing.shape, 1)
        mask = create_bidirectional_mask(self.config, inputs_embeds=batch_embeds, attention_mask=attention_mask)
        *lower_layers, last_layer = self.layers
        for layer in lower_layers:
            hidden_states = layer(hidden_states, mask, packing=packing, **kwargs)
        if first_token_only and not all_tokens and can_attend_alone(mask, packing):
            if packing is None:
                first_states = first_token(hidden_states, attention_mask)
            else:
                first_states = packing.first_tokens(hidden_states)
            if mask is not None:
                mask = mask[:, :, :1]  # a bidirectional mask is the same for every query
            query_states = first_states.unsqueeze(1)
            last_states = last_layer(hidden_states, mask, query_states=query_states, packing=packing, **kwargs)
            return BaseModelOutputWithPooling(pooler_output=last_states.squeeze(1))
        hidden_states = last_layer(hidden_states, mask, packing=packing, **kwargs)
        if packing is not None:
            hidden_states = packing.pad(hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=first_token(hidden_states, attention_mask) if first_token_only else None,
        )

    def create_packing(self, attention_mask: torch.Tensor | None) -> Packing | None:
        """Return how to remove the padding of a batch.

        `None` in a traced graph, without a mask of two dimensions, or if packing saves no tokens.
        """
        if attention_mask is None or attention_mask.dim() != 2 or is_tracing():
            return None
        half_precision = self.dtype.itemsize == 2 or torch.is_autocast_enabled("cpu")
        on_cpu = attention_mask.device.type == "cpu"
        packing = Packing(attention_mask, PACKED_LENGTH_MULTIPLE if half_precision and on_cpu else 1)
        return None if len(packing.indices) >= attention_mask.numel() else packing


def _cast_for(linear: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Cast states to the data type of a linear layer; one that `torch.quantize_dynamic` made takes them as they are."""
    bias = linear.bias
    return states.to(bias.dtype) if isinstance(bias, torch.Tensor) else states


class TKDForSequenceClassification(TKDPreTrainedModel):
    """Classifier of texts: one label, several labels or a score per text, read from the text's first token.

    `dense` and its activation (`config.pooler_act`) correspond to bert's pooler, distilbert's pre-classifier, and the
    dense layer in the heads of roberta and electra. As everywhere in transformers, the loss follows
    `config.problem_type`. If that is `None`, the first labels decide it: with one output it is regression, with integer
    labels one label per text, otherwise several labels per text.

    Args:
        config: shape of the model; `num_labels` is the number of outputs.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf import TKDConfig, TKDForSequenceClassification

    >>> model = TKDForSequenceClassification(TKDConfig(num_hidden_layers=2, num_labels=3))
    >>> model(input_ids=torch.tensor([[101, 7592, 102]]), labels=torch.tensor([2])).logits.shape
    torch.Size([1, 3])

    ```
    """

    _keep_in_fp32_modules = ["dense", "classifier"]  # also keeps the quantizers of transformers away from the head

    def __init__(self, config: TKDConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.tkd = TKDModel(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.pooler_act]
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, known(config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs also has position_ids, as for transformers' own models
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Classify a batch of texts, and compute the loss if there are labels.

        The inputs are those of `TKDModel.forward`; `labels` are `(batch,)`, or `(batch, num_labels)` if a text has
        several.

        Returns:
            `logits` of `(batch, num_labels)`, and `loss` with `labels`.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.tkd(*inputs, first_token_only=True, **kwargs)
        pooled = self.activation(self.dense(_cast_for(self.dense, outputs.pooler_output)))
        logits = self.classifier(self.dropout(pooled))
        return SequenceClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class TKDForTokenClassification(TKDPreTrainedModel):
    """Classifier of tokens: one label per token, as in named entity recognition.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf import TKDConfig, TKDForTokenClassification

    >>> model = TKDForTokenClassification(TKDConfig(num_hidden_layers=2, num_labels=3))
    >>> model(input_ids=torch.tensor([[101, 7592, 102]])).logits.shape
    torch.Size([1, 3, 3])

    ```
    """

    _keep_in_fp32_modules = ["classifier"]

    def __init__(self, config: TKDConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.tkd = TKDModel(config)
        self.dropout = nn.Dropout(classifier_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, known(config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs also has position_ids, as for transformers' own models
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Classify the tokens of a batch of texts, and compute the loss if there are labels.

        The inputs are those of `TKDModel.forward`; `labels` are `(batch, length)`, -100 at tokens that do not count.

        Returns:
            `logits` of `(batch, length, num_labels)`, meaningless at padding, and `loss` with `labels`.
        """
        outputs = self.tkd(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **kwargs)
        logits = self.classifier(self.dropout(_cast_for(self.classifier, outputs.last_hidden_state)))
        return TokenClassifierOutput(
            loss=None if labels is None else self.loss_function(logits, labels, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class TKDForMaskedLM(TKDPreTrainedModel):
    """Masked language model: predicts the original token at masked positions, for pre-training.

    The decoder shares the word embeddings unless `config.tie_word_embeddings` is `False`. The dense layer of this head
    is called `transform`, because a sequence classifier loaded from a pre-trained model must not take it for its own
    `dense`.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf import TKDConfig, TKDForMaskedLM

    >>> model = TKDForMaskedLM(TKDConfig(num_hidden_layers=2, vocab_size=2000, pad_token_id=0))
    >>> input_ids = torch.tensor([[101, 103, 102]])
    >>> model(input_ids=input_ids).logits.shape
    torch.Size([1, 3, 2000])
    >>> model(input_ids=input_ids, prediction_mask=input_ids == 103).logits.shape
    torch.Size([1, 2000])

    ```
    """

    _tied_weights_keys = {"decoder.weight": "tkd.embeddings.word_embeddings.weight"}

    def __init__(self, config: TKDConfig):
        super().__init__(config)
        self.tkd = TKDModel(config)
        width = known(config.embedding_size)
        self.transform = nn.Linear(config.hidden_size, width)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.decoder: nn.Module = nn.Linear(width, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.decoder = value

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs also has position_ids, as for transformers' own models
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
        """Predict the tokens of a batch of texts, and compute the loss if there are labels.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds: as in `TKDModel.forward`.
            labels: `(batch, length)`, -100 at tokens that do not count in the loss.
            prediction_mask (`(batch, length)`, *optional*): boolean; predict only the tokens at which it is true. This
                saves most of the cost of pre-training, where only few tokens are masked.

        Returns:
            `logits` of `(batch, length, vocab_size)`, or with `prediction_mask` of `(selected, vocab_size)`, row by
            row; and `loss` with `labels`.
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


__all__ = [
    "TKDPreTrainedModel",
    "TKDModel",
    "TKDForSequenceClassification",
    "TKDForTokenClassification",
    "TKDForMaskedLM",
]
