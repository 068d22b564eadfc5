"""Convert BERT-like models to TKD with equal logits, and a TKD with equal layers back to a stock `bert`.

A table per architecture lists its module names on the left and TKD's on the right; `#` stands for the layer index.
"""

import copy
import re
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..core.errors import InputError
from .configuration_tkd import TKDConfig
from .modeling_tkd import (
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
    TKDPreTrainedModel,
)
from .quantized import refuse_quantized


@dataclass(frozen=True)
class Architecture:
    """How the modules and configuration fields of an architecture map to those of TKD.

    Attributes:
        encoder: module names inside the base model -> TKD's.
        sequence, masked_lm: module names of the two heads -> TKD's.
        pooler_act: activation of the sequence classification head.
        masked_lm_act: activation of the masked-LM head; `None` if it follows `hidden_act`.
        config: TKD's configuration fields -> the architecture's, if their names differ.
        constants: TKD fields with a value that the architecture's code fixes.
    """

    encoder: dict[str, str]
    sequence: dict[str, str]
    masked_lm: dict[str, str]
    pooler_act: str
    masked_lm_act: str | None = None
    config: dict[str, str] = field(default_factory=dict)
    constants: dict = field(default_factory=dict)


BERT_EMBEDDINGS = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings.LayerNorm": "embeddings.norm",
}
BERT_ENCODER = BERT_EMBEDDINGS | {
    "encoder.layer.#.attention.self.query": "layers.#.attention.query",
    "encoder.layer.#.attention.self.key": "layers.#.attention.key",
    "encoder.layer.#.attention.self.value": "layers.#.attention.value",
    "encoder.layer.#.attention.output.dense": "layers.#.attention.output",
    "encoder.layer.#.attention.output.LayerNorm": "layers.#.attention_norm",
    "encoder.layer.#.intermediate.dense": "layers.#.feed_forward.intermediate",
    "encoder.layer.#.output.dense": "layers.#.feed_forward.output",
    "encoder.layer.#.output.LayerNorm": "layers.#.feed_forward_norm",
}

BERT = Architecture(
    encoder=BERT_ENCODER,
    sequence={"bert.pooler.dense": "dense", "classifier": "classifier"},
    masked_lm={
        "cls.predictions.transform.dense": "transform",
        "cls.predictions.transform.LayerNorm": "norm",
        "cls.predictions.decoder": "decoder",
    },
    pooler_act="tanh",
)

ROBERTA = Architecture(
    encoder=BERT_ENCODER,
    sequence={"classifier.dense": "dense", "classifier.out_proj": "classifier"},
    masked_lm={"lm_head.dense": "transform", "lm_head.layer_norm": "norm", "lm_head.decoder": "decoder"},
    pooler_act="tanh",
    masked_lm_act="gelu",
)

DISTILBERT = Architecture(
    encoder=BERT_EMBEDDINGS
    | {
        "transformer.layer.#.attention.q_lin": "layers.#.attention.query",
        "transformer.layer.#.attention.k_lin": "layers.#.attention.key",
        "transformer.layer.#.attention.v_lin": "layers.#.attention.value",
        "transformer.layer.#.attention.out_lin": "layers.#.attention.output",
        "transformer.layer.#.sa_layer_norm": "layers.#.attention_norm",
        "transformer.layer.#.ffn.lin1": "layers.#.feed_forward.intermediate",
        "transformer.layer.#.ffn.lin2": "layers.#.feed_forward.output",
        "transformer.layer.#.output_layer_norm": "layers.#.feed_forward_norm",
    },
    sequence={"pre_classifier": "dense", "classifier": "classifier"},
    masked_lm={"vocab_transform": "transform", "vocab_layer_norm": "norm", "vocab_projector": "decoder"},
    pooler_act="relu",
    config={
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
    },
    constants={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
)

ELECTRA = Architecture(
    encoder=BERT_ENCODER | {"embeddings_project": "embeddings.projection"},
    sequence={"classifier.dense": "dense", "classifier.out_proj": "classifier"},
    masked_lm={
        "generator_predictions.dense": "transform",
        "generator_predictions.LayerNorm": "norm",
        "generator_lm_head": "decoder",
    },
    pooler_act="gelu",
    masked_lm_act="gelu",
)

ARCHITECTURES = {"bert": BERT, "roberta": ROBERTA, "distilbert": DISTILBERT, "electra": ELECTRA}

# suffix of a class name (BertModel, BertForMaskedLM, ...) -> the class
TKD_CLASSES = {
    "Model": TKDModel,
    "ForSequenceClassification": TKDForSequenceClassification,
    "ForTokenClassification": TKDForTokenClassification,
    "ForMaskedLM": TKDForMaskedLM,
}
AUTO_CLASSES = {
    "Model": AutoModel,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForMaskedLM": AutoModelForMaskedLM,
}
BERT_CLASSES = {
    "Model": BertModel,
    "ForSequenceClassification": BertForSequenceClassification,
    "ForTokenClassification": BertForTokenClassification,
    "ForMaskedLM": BertForMaskedLM,
}

# configuration fields that mean the same in TKD and in the other architectures, which may lack some of them
SHARED_FIELDS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob "
    "attention_probs_dropout_prob max_position_embeddings type_vocab_size embedding_size classifier_dropout "
    "initializer_range layer_norm_eps pad_token_id bos_token_id eos_token_id tie_word_embeddings "
    "id2label label2id problem_type"
).split()


def head_type(model: PreTrainedModel | type) -> str:
    """Return which head a model or class has, as the suffix of its class name.

    Returns:
        `"Model"` (no head), `"ForSequenceClassification"`, `"ForTokenClassification"` or `"ForMaskedLM"`.

    Raises:
        InputError: if TKD does not have this head.
    """
    class_name = (model if isinstance(model, type) else type(model)).__name__
    for suffix in TKD_CLASSES:
        if class_name.endswith(suffix):
            return suffix
    raise InputError(
        f"{class_name} has no counterpart in TKD, which has: {', '.join(TKD_CLASSES)}; load it as one of these"
    )


def tkd_config_from(config: PreTrainedConfig) -> TKDConfig:
    """Return a TKD configuration with the shape and labels of another; a `TKDConfig` is copied.

    Raises:
        InputError: if the model is a decoder, or not a bert, roberta, distilbert, electra or tkd.
    """
    if isinstance(config, TKDConfig):
        return copy.deepcopy(config)
    architecture = _architecture_of(config)
    fields = {}
    for tkd_name in SHARED_FIELDS:
        name = architecture.config.get(tkd_name, tkd_name)
        if hasattr(config, name):
            fields[tkd_name] = copy.deepcopy(getattr(config, name))
    fields["max_position_embeddings"] -= unused_positions(config)
    return TKDConfig(**fields | architecture.constants, pooler_act=architecture.pooler_act)


def tkd_state_dict_from(model: PreTrainedModel) -> dict:
    """Return the model's weights under TKD's names. The tensors are the model's own, not copies.

    Weights without a counterpart in TKD are left out: bert's pooler if no sequence head uses it, and duplicates of tied
    biases.

    Raises:
        InputError: if TKD lacks the architecture or the head, or if the weights are quantized.
    """
    refuse_quantized(model, "convert")
    if isinstance(model, TKDPreTrainedModel):
        return model.state_dict()
    architecture = _architecture_of(model.config)
    weights = _rename(model.state_dict(), _module_names(architecture, model.base_model_prefix, model))
    unused = unused_positions(model.config)
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
    bert_names = {tkd_name: bert_name for bert_name, tkd_name in _module_names(BERT, "bert", model).items()}
    weights = _rename(model.state_dict(), bert_names)
    if not model.config.type_vocab_size:
        prefix = "" if head == "Model" else "bert."
        embeddings = weights[f"{prefix}embeddings.position_embeddings.weight"]
        weights[f"{prefix}embeddings.token_type_embeddings.weight"] = embeddings.new_zeros(2, config.hidden_size)
    if head == "ForMaskedLM":
        weights["cls.predictions.bias"] = weights["cls.predictions.decoder.bias"]
    exported = BertModel(config, add_pooling_layer=False) if head == "Model" else BERT_CLASSES[head](config)
    exported.load_state_dict(weights)
    return _match_device_and_mode(exported, model)


def _architecture_of(config: PreTrainedConfig) -> Architecture:
    if config.model_type not in ARCHITECTURES:
        raise InputError(
            f"model_type={config.model_type!r} does not convert to TKD, only {', '.join(ARCHITECTURES)} do; "
            "it can still be the teacher of a student that is initialised at random (TKDConfig), by its logits"
        )
    if getattr(config, "is_decoder", False):
        raise InputError(
            f"is_decoder=True makes this {config.model_type} causal, but TKD is an encoder; set is_decoder=False"
        )
    return ARCHITECTURES[config.model_type]


def unused_positions(config: PreTrainedConfig) -> int:
    """Return how many leading rows of the position embeddings no token uses.

    roberta counts positions from `pad_token_id + 1`, the other architectures from 0.
    """
    return config.pad_token_id + 1 if config.model_type == "roberta" else 0


def _module_names(architecture: Architecture, prefix: str, model: PreTrainedModel) -> dict[str, str]:
    """Return the architecture's module names -> TKD's, as in the state dict of a model with this head."""
    head = head_type(model)
    if head == "Model":
        return architecture.encoder
    head_names = {
        "ForSequenceClassification": architecture.sequence,
        "ForTokenClassification": {"classifier": "classifier"},
        "ForMaskedLM": architecture.masked_lm,
    }[head]
    encoder_names = {f"{prefix}.{name}": f"tkd.{tkd_name}" for name, tkd_name in architecture.encoder.items()}
    return encoder_names | head_names


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


def _check_masked_lm_activation(model: PreTrainedModel, head: str):
    config = model.config
    activation = getattr(ARCHITECTURES.get(config.model_type), "masked_lm_act", None)
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


def _check_exportable(config: TKDConfig, head: str, heads: set[int], intermediate_sizes: set[int]):
    """Raise an InputError with all reasons why `bert` cannot have this shape."""
    reasons = []
    if config.position_embedding_type != "learned":
        reasons.append(f"position_embedding_type={config.position_embedding_type!r} (bert has 'learned')")
    if config.embedding_size != config.hidden_size:
        reasons.append(f"embedding_size={config.embedding_size} differs from hidden_size={config.hidden_size}")
    if len(heads) > 1:
        reasons.append(f"heads_per_layer={config.heads_per_layer} is uneven")
    elif max(heads) * config.head_dim != config.hidden_size:
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


def _match_device_and_mode(converted: PreTrainedModel, model: PreTrainedModel) -> PreTrainedModel:
    return converted.to(device=model.device, dtype=model.dtype).train(model.training)
