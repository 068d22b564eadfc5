"""BERT-like checkpoints to TKD with equal logits, and a TKD of even shape back to a stock `bert`.

Each architecture is one table: its module names on the left, ours on the right, `#` standing for the layer's number.
"""

import copy
import re
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from .configuration_tkd import TKDConfig
from .errors import InputError
from .model_loading import refuse_quantized
from .modeling_tkd import (
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
    TKDPreTrainedModel,
)


@dataclass(frozen=True)
class Architecture:
    """How one family of checkpoints names what TKD has."""

    encoder: dict[str, str]  # inside the base model
    sequence: dict[str, str]  # the heads, outside of it
    masked_lm: dict[str, str]
    pooler_act: str  # the activation its sequence head is written with
    masked_lm_act: str | None = None  # the activation its masked-LM head is written with; None follows the config
    config: dict[str, str] = field(default_factory=dict)  # our configuration field -> theirs, where names differ
    constants: dict = field(default_factory=dict)  # what its code fixes and its configuration does not say


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

# what a class name says after the family's: BertModel, BertForMaskedLM, ...
TKD_CLASSES = {
    "Model": TKDModel,
    "ForSequenceClassification": TKDForSequenceClassification,
    "ForTokenClassification": TKDForTokenClassification,
    "ForMaskedLM": TKDForMaskedLM,
}
BERT_CLASSES = {
    "Model": BertModel,
    "ForSequenceClassification": BertForSequenceClassification,
    "ForTokenClassification": BertForTokenClassification,
    "ForMaskedLM": BertForMaskedLM,
}

# fields that mean the same in TKD and in the families it converts, where they have them
SHARED_FIELDS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob "
    "attention_probs_dropout_prob max_position_embeddings type_vocab_size embedding_size classifier_dropout "
    "initializer_range layer_norm_eps pad_token_id bos_token_id eos_token_id tie_word_embeddings "
    "id2label label2id problem_type"
).split()


def head_type(model: PreTrainedModel | type) -> str:
    """`"Model"`, `"ForSequenceClassification"`, `"ForTokenClassification"` or `"ForMaskedLM"`.

    Raises:
        InputError: the model has another head.
    """
    name = (model if isinstance(model, type) else type(model)).__name__
    for kind in TKD_CLASSES:
        if name.endswith(kind):
            return kind
    raise InputError(f"{name} has no counterpart in TKD, which has: {', '.join(TKD_CLASSES)}; load it as one of these")


def tkd_config_from(config: PreTrainedConfig) -> TKDConfig:
    """The TKD configuration of the same shape, with the same labels; a new object, also for a `TKDConfig`.

    Raises:
        InputError: the architecture is not one of bert, roberta, distilbert, electra and tkd, or is a decoder.
    """
    if isinstance(config, TKDConfig):
        return copy.deepcopy(config)
    architecture = _architecture_of(config)
    theirs = {ours: architecture.config.get(ours, ours) for ours in SHARED_FIELDS}
    fields = {ours: copy.deepcopy(getattr(config, name)) for ours, name in theirs.items() if hasattr(config, name)}
    fields["max_position_embeddings"] -= unused_positions(config)
    return TKDConfig(**fields | architecture.constants, pooler_act=architecture.pooler_act)


def tkd_state_dict_from(model: PreTrainedModel) -> dict:
    """The model's weights under TKD's names. They are the model's own tensors, not copies.

    What TKD has no place for is left out: bert's pooler where no sequence head reads it, duplicates of tied biases.

    Raises:
        InputError: the architecture or the head is not one that TKD has, or the weights are quantized.
    """
    refuse_quantized(model, "convert")
    if isinstance(model, TKDPreTrainedModel):
        return model.state_dict()
    weights = _rename(model.state_dict(), _names(_architecture_of(model.config), model.base_model_prefix, model))
    unused = unused_positions(model.config)
    return {
        name: weight[unused:] if name.endswith("position_embeddings.weight") else weight
        for name, weight in weights.items()
    }


def to_tkd(model: PreTrainedModel) -> TKDPreTrainedModel:
    """A bert, roberta, distilbert or electra model as TKD, with the same head and equal logits.

    Padding has to be marked by an `attention_mask`, also for roberta, which would see it in `input_ids`. The result
    shares no tensor with `model`, and has its device, dtype and mode.

    Raises:
        InputError: the architecture or the head is not one that TKD has.

    Example:

    ```python
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from tkd_hf.conversion import to_tkd

    >>> bert = BertForSequenceClassification(BertConfig(num_hidden_layers=2))
    >>> type(to_tkd(bert)).__name__
    'TKDForSequenceClassification'

    ```
    """
    kind = head_type(model)
    _check_masked_lm_activation(model, kind)
    converted = TKD_CLASSES[kind](tkd_config_from(model.config))
    converted.load_state_dict(tkd_state_dict_from(model))
    return _like(converted, model)


def to_padding_free(model: PreTrainedModel) -> PreTrainedModel:
    """A model that is only asked for answers, in the form that computes nothing on padding: as TKD, with its weights.

    Args:
        model: a teacher, say. It stays as it is.

    Returns:
        a TKD that shares the weights; the model itself where it is no stock classifier of an architecture that TKD has,
        or where something was put into it: adapters, quantized weights, hooks, another `forward`.

    Example:

    ```python
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from tkd_hf.conversion import to_padding_free

    >>> bert = BertForSequenceClassification(BertConfig(num_hidden_layers=2))
    >>> fast = to_padding_free(bert)
    >>> fast.classifier.weight.data_ptr() == bert.classifier.weight.data_ptr()
    True

    ```
    """
    if not (_is_stock_classifier(model) and all(map(_is_as_made, model.modules()))):
        return model
    with torch.device("meta"):
        converted = TKD_CLASSES[head_type(model)](tkd_config_from(model.config))
    converted.load_state_dict(tkd_state_dict_from(model), assign=True)
    converted.config.name_or_path = model.config.name_or_path
    return converted.train(model.training)


def _is_stock_classifier(model: PreTrainedModel) -> bool:
    kinds = ("ForSequenceClassification", "ForTokenClassification")
    ours = model.config.model_type in ARCHITECTURES and not getattr(model.config, "is_decoder", False)
    return ours and type(model).__module__.startswith("transformers.models.") and type(model).__name__.endswith(kinds)


def _is_as_made(module: nn.Module) -> bool:
    """Whether a module is of torch or transformers, as its class says, and has no weights but those of plain layers."""
    plain = not module._parameters or type(module) in (nn.Linear, nn.Embedding, nn.LayerNorm)
    plain = plain and type(module).__module__.startswith(("torch.", "transformers."))
    return plain and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def to_bert(model: TKDPreTrainedModel) -> PreTrainedModel:
    """A TKD of even shape as a stock `bert` with the same head and equal logits, for runtimes that know only that.

    Without padding or with padding on the right, that is: `bert` counts positions from the left edge. A TKD without
    token types gets two that add nothing. The result shares no tensor with `model`, and has its device, dtype and mode.

    Raises:
        InputError: `bert` cannot have this shape; the message says why and what to do instead.
    """
    refuse_quantized(model, "convert")
    kind = head_type(model)
    config = _bert_config_from(model.config, kind)
    names = {ours: theirs for theirs, ours in _names(BERT, "bert", model).items()}
    weights = _rename(model.state_dict(), names)
    if not model.config.type_vocab_size:
        prefix = "" if kind == "Model" else "bert."
        embeddings = weights[f"{prefix}embeddings.position_embeddings.weight"]
        weights[f"{prefix}embeddings.token_type_embeddings.weight"] = embeddings.new_zeros(2, config.hidden_size)
    if kind == "ForMaskedLM":
        weights["cls.predictions.bias"] = weights["cls.predictions.decoder.bias"]
    exported = BertModel(config, add_pooling_layer=False) if kind == "Model" else BERT_CLASSES[kind](config)
    exported.load_state_dict(weights)
    return _like(exported, model)


def _architecture_of(config: PreTrainedConfig) -> Architecture:
    if config.model_type not in ARCHITECTURES:
        raise InputError(
            f"model_type={config.model_type!r} does not convert to TKD, only {', '.join(ARCHITECTURES)} do; "
            "it can still teach a student made from scratch (TKDConfig) by its logits"
        )
    if getattr(config, "is_decoder", False):
        raise InputError(f"is_decoder=True makes this {config.model_type} causal, but TKD is an encoder; set it False")
    return ARCHITECTURES[config.model_type]


def unused_positions(config: PreTrainedConfig) -> int:
    """Rows at the top of the position table that no token uses: roberta counts from `pad_token_id + 1`."""
    return config.pad_token_id + 1 if config.model_type == "roberta" else 0


def _names(architecture: Architecture, prefix: str, model: PreTrainedModel) -> dict[str, str]:
    """Their module names -> ours, as they stand in the state dict of a model with this head."""
    kind = head_type(model)
    if kind == "Model":
        return architecture.encoder
    head = {
        "ForSequenceClassification": architecture.sequence,
        "ForTokenClassification": {"classifier": "classifier"},
        "ForMaskedLM": architecture.masked_lm,
    }[kind]
    return {f"{prefix}.{theirs}": f"tkd.{ours}" for theirs, ours in architecture.encoder.items()} | head


def _rename(state_dict: dict, names: dict[str, str]) -> dict:
    """Rename `module.parameter` by the names of modules, and leave out modules that have none."""
    renamed = {}
    for name, tensor in state_dict.items():
        module, _, parameter = name.rpartition(".")
        layer = re.search(r"(?<=\.)\d+(?=\.)", module)
        pattern = module if layer is None else module.replace(f".{layer[0]}.", ".#.", 1)
        if pattern in names:
            new_module = names[pattern].replace("#", layer[0]) if layer else names[pattern]
            renamed[f"{new_module}.{parameter}"] = tensor
    return renamed


def _check_masked_lm_activation(model: PreTrainedModel, kind: str):
    config = model.config
    fixed = getattr(ARCHITECTURES.get(config.model_type), "masked_lm_act", None)
    if kind == "ForMaskedLM" and fixed is not None and config.hidden_act != fixed:
        raise InputError(
            f"the masked-LM head of {config.model_type} always uses {fixed}, but TKD's uses hidden_act="
            f"{config.hidden_act!r} as its layers do; convert the base model instead"
        )


def _bert_config_from(config: TKDConfig, kind: str) -> BertConfig:
    layers = range(config.num_hidden_layers)
    heads = {config.heads_of(layer) for layer in layers}
    intermediate_sizes = {config.intermediate_size_of(layer) for layer in layers}
    _check_exportable(config, kind, heads, intermediate_sizes)
    fields = {name: copy.deepcopy(getattr(config, name)) for name in SHARED_FIELDS if name != "embedding_size"}
    fields |= {"num_attention_heads": heads.pop(), "intermediate_size": intermediate_sizes.pop()}
    return BertConfig(**fields | {"type_vocab_size": config.type_vocab_size or 2})


def _check_exportable(config: TKDConfig, kind: str, heads: set[int], intermediate_sizes: set[int]):
    """Say everything that keeps this shape from being a `bert`, at once."""
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
    if kind == "ForSequenceClassification" and config.pooler_act != "tanh":
        reasons.append(f"pooler_act={config.pooler_act!r} (bert has 'tanh')")
    if reasons:
        raise InputError(
            f"bert cannot have this shape: {'; '.join(reasons)}. Publish it as TKD (save_pretrained writes the code "
            "that loads it), or export to ONNX or OpenVINO"
        )


def _like(converted: PreTrainedModel, model: PreTrainedModel) -> PreTrainedModel:
    return converted.to(device=model.device, dtype=model.dtype).train(model.training)
