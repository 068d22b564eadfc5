"""Convert BERT-like models to TKD with equal logits, and a TKD with equal layers back to a stock `bert`.

The names of modules and configuration fields are those of `tkd_hf.models.architectures`.
"""

import copy
import re
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedConfig, PreTrainedModel

from ..core.errors import InputError
from .architectures import (
    ARCHITECTURES,
    BERT,
    SHARED_FIELDS,
    TKD_CLASSES,
    architecture_of,
    head_type,
)
from .configuration_tkd import TKDConfig
from .modeling_tkd import TKDPreTrainedModel
from .quantized import refuse_quantized


ModelType = TypeVar("ModelType", bound=PreTrainedModel)


def tkd_config_from(config: PreTrainedConfig) -> TKDConfig:
    """Return a TKD configuration with the shape and labels of another; a `TKDConfig` is copied.

    Raises:
        InputError: if the model is a decoder, or not a bert, roberta, distilbert, electra or tkd.
    """
    if isinstance(config, TKDConfig):
        return copy.deepcopy(config)
    architecture = architecture_of(config)
    fields: dict[str, Any] = {}
    for tkd_name in SHARED_FIELDS:
        name = architecture.config.get(tkd_name, tkd_name)
        if hasattr(config, name):
            fields[tkd_name] = copy.deepcopy(getattr(config, name))
    fields["max_position_embeddings"] -= architecture.unused_positions(config)
    return TKDConfig(**{**fields, **architecture.constants}, pooler_act=architecture.pooler_act)


def tkd_state_dict_from(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the model's weights under TKD's names. The tensors are the model's own, not copies.

    Weights without a counterpart in TKD are left out: bert's pooler if no sequence head uses it, and duplicates of tied
    biases.

    Raises:
        InputError: if TKD lacks the architecture or the head, or if the weights are quantized.
    """
    refuse_quantized(model, "convert")
    if isinstance(model, TKDPreTrainedModel):
        return model.state_dict()
    architecture = architecture_of(model.config)
    weights = _rename(model.state_dict(), architecture.module_names(head_type(model), model.base_model_prefix))
    unused = architecture.unused_positions(model.config)
    return {
        name: weight[unused:] if name.endswith("position_embeddings.weight") else weight
        for name, weight in weights.items()
    }


def to_tkd(model: PreTrainedModel) -> TKDPreTrainedModel:
    """Convert a bert, roberta, distilbert or electra model to TKD, with the same head and equal logits.

    Mark padding with an `attention_mask` from then on: roberta also recognises it in `input_ids`, TKD does not.

    Args:
        model: an encoder, classifier of texts or tokens, or masked language model. It does not change.

    Returns:
        A new model on the same device, with the same dtype and training mode, that shares no tensor with `model`.

    Raises:
        InputError: if TKD lacks the architecture or the head, or if the weights are quantized.

    Example:

    ```python
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from tkd_hf.models.conversion import to_tkd

    >>> bert = BertForSequenceClassification(BertConfig(num_hidden_layers=2))
    >>> type(to_tkd(bert)).__name__
    'TKDForSequenceClassification'

    ```
    """
    head = head_type(model)
    _check_masked_lm_activation(model, head)
    converted = TKD_CLASSES[head](tkd_config_from(model.config))
    converted.load_state_dict(tkd_state_dict_from(model))
    return _match_device_and_mode(converted, model)


def to_padding_free(model: PreTrainedModel) -> PreTrainedModel:
    """Return a TKD with the model's weights for inference, such as labelling with a teacher, that skips padding.

    Real tokens get the same logits as before. The two models share their weights, so do not train the result.

    Args:
        model: a classifier. It does not change.

    Returns:
        A TKD model. If `model` is not an unmodified bert, roberta, distilbert or electra classifier of transformers, it
        is returned itself: adapters, quantized weights, hooks or another `forward` would be lost in the conversion.

    Example:

    ```python
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from tkd_hf.models.conversion import to_padding_free

    >>> bert = BertForSequenceClassification(BertConfig(num_hidden_layers=2))
    >>> fast = to_padding_free(bert)
    >>> fast.classifier.weight.data_ptr() == bert.classifier.weight.data_ptr()
    True

    ```
    """
    if not (_is_stock_classifier(model) and all(_is_unmodified(module) for module in model.modules())):
        return model
    with torch.device("meta"):
        converted = TKD_CLASSES[head_type(model)](tkd_config_from(model.config))
    converted.load_state_dict(tkd_state_dict_from(model), assign=True)
    converted.config.name_or_path = model.config.name_or_path
    return converted.train(model.training)


def _is_stock_classifier(model: PreTrainedModel) -> bool:
    is_known_encoder = model.config.model_type in ARCHITECTURES and not getattr(model.config, "is_decoder", False)
    is_stock = type(model).__module__.startswith("transformers.models.")
    is_classifier = type(model).__name__.endswith(("ForSequenceClassification", "ForTokenClassification"))
    return is_known_encoder and is_stock and is_classifier


def _is_unmodified(module: nn.Module) -> bool:
    """Return whether a module of torch or transformers computes as its class says and holds weights as plain layers do.

    Adapters and quantization replace layers by classes of their own.
    """
    is_stock = type(module).__module__.startswith(("torch.", "transformers."))
    is_plain = not module._parameters or type(module) in (nn.Linear, nn.Embedding, nn.LayerNorm)
    is_patched = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return is_stock and is_plain and not is_patched


def to_bert(model: TKDPreTrainedModel) -> PreTrainedModel:
    """Convert a TKD to a stock `bert` with the same head and equal logits, for runtimes that only support bert.

    The logits differ if texts are padded on the left: `bert` counts positions from the left edge, TKD from the first
    real token. A TKD without token types gets two whose embeddings are zero.

    Args:
        model: a TKD with the same number of heads and neurons in every layer. It does not change.

    Returns:
        A new model on the same device, with the same dtype and training mode, that shares no tensor with `model`.

    Raises:
        InputError: if `bert` cannot have this shape. The message lists every reason and the alternatives.
    """
    refuse_quantized(model, "convert")
    head = head_type(model)
    config = _bert_config_from(model.config, head)
    stock_class = BERT.stock[head]
    bert_names = {tkd_name: name for name, tkd_name in BERT.module_names(head, stock_class.base_model_prefix).items()}
    weights = _rename(model.state_dict(), bert_names)
    if not model.config.type_vocab_size:
        prefix = "" if head == "Model" else f"{stock_class.base_model_prefix}."
        embeddings = weights[f"{prefix}embeddings.position_embeddings.weight"]
        weights[f"{prefix}embeddings.token_type_embeddings.weight"] = embeddings.new_zeros(2, config.hidden_size)
    weights |= {
        name: weights[f"{module}.bias"] for name, module in BERT.tied_biases.items() if f"{module}.bias" in weights
    }
    exported = BertModel(config, add_pooling_layer=False) if head == "Model" else stock_class(config)
    exported.load_state_dict(weights)
    return _match_device_and_mode(exported, model)


def _rename(state_dict: dict, names: dict[str, str]) -> dict:
    """Rename the modules of `module.parameter` keys, and leave out modules without a new name."""
    renamed = {}
    for name, tensor in state_dict.items():
        module, _, parameter = name.rpartition(".")
        layer = re.search(r"(?<=\.)\d+(?=\.)", module)
        pattern = module if layer is None else module.replace(f".{layer[0]}.", ".#.", 1)
        if pattern in names:
            new_module = names[pattern].replace("#", layer[0]) if layer else names[pattern]
            renamed[f"{new_module}.{parameter}"] = tensor
    return renamed


def _check_masked_lm_activation(model: PreTrainedModel, head: str) -> None:
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type)
    activation = None if architecture is None else architecture.masked_lm_act
    if head == "ForMaskedLM" and activation is not None and config.hidden_act != activation:
        raise InputError(
            f"the masked-LM head of {config.model_type} always uses {activation}, but TKD's uses hidden_act="
            f"{config.hidden_act!r} as its layers do; convert the base model instead"
        )


def _bert_config_from(config: TKDConfig, head: str) -> BertConfig:
    layers = range(config.num_hidden_layers)
    heads = {config.heads_of(layer) for layer in layers}
    intermediate_sizes = {config.intermediate_size_of(layer) for layer in layers}
    _check_exportable(config, head, heads, intermediate_sizes)
    fields = {name: copy.deepcopy(getattr(config, name)) for name in SHARED_FIELDS if name != "embedding_size"}
    fields |= {"num_attention_heads": heads.pop(), "intermediate_size": intermediate_sizes.pop()}
    return BertConfig(**fields | {"type_vocab_size": config.type_vocab_size or 2})


def _check_exportable(config: TKDConfig, head: str, heads: set[int], intermediate_sizes: set[int]) -> None:
    """Raise an InputError with all reasons why `bert` cannot have this shape."""
    reasons = []
    if config.position_embedding_type != "learned":
        reasons.append(f"position_embedding_type={config.position_embedding_type!r} (bert has 'learned')")
    if config.embedding_size != config.hidden_size:
        reasons.append(f"embedding_size={config.embedding_size} differs from hidden_size={config.hidden_size}")
    if len(heads) > 1:
        reasons.append(f"heads_per_layer={config.heads_per_layer} is uneven")
    elif config.head_dim is not None and max(heads) * config.head_dim != config.hidden_size:
        reasons.append(
            f"{max(heads)} heads of head_dim={config.head_dim} do not add up to hidden_size={config.hidden_size}"
        )
    if len(intermediate_sizes) > 1:
        reasons.append(f"intermediate_sizes={config.intermediate_sizes} is uneven")
    if head == "ForSequenceClassification" and config.pooler_act != "tanh":
        reasons.append(f"pooler_act={config.pooler_act!r} (bert has 'tanh')")
    if reasons:
        raise InputError(
            f"bert cannot have this shape: {'; '.join(reasons)}. Publish it as TKD (save_pretrained includes the code "
            "to load it), or export it to ONNX or OpenVINO"
        )


def _match_device_and_mode(converted: ModelType, model: PreTrainedModel) -> ModelType:
    converted.to(device=model.device, dtype=model.dtype)  # type: ignore[call-arg]  # wrapped without types
    return converted.train(model.training)
