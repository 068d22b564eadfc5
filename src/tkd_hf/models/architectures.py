"""The teacher architectures that convert to TKD: one `Architecture` object each, in one table.

Adding one is an object and a call of `register_architecture`, from any package. Students then start from models of that
architecture, and objectives read their attention.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..core.errors import InputError
from .modeling_tkd import (
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
    TKDPreTrainedModel,
)


# Architectures that, like roberta, count positions from `pad_token_id + 1`, but are not in the table below.
_POSITIONS_AFTER_PADDING = frozenset(
    "camembert data2vec-text ibert longformer luke mpnet roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod".split()
)

AutoClass = type[Any]  # the Auto classes of transformers have no public base class

# Suffix of a class name (BertModel, BertForMaskedLM, ...) -> the class.
TKD_CLASSES: dict[str, type[TKDPreTrainedModel]] = {
    "Model": TKDModel,
    "ForSequenceClassification": TKDForSequenceClassification,
    "ForTokenClassification": TKDForTokenClassification,
    "ForMaskedLM": TKDForMaskedLM,
}
AUTO_CLASSES: dict[str, AutoClass] = {
    "Model": AutoModel,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForMaskedLM": AutoModelForMaskedLM,
}

# TKD's modules with weights; `#` stands for the index of a layer.
PROJECTIONS = ("query", "key", "value")
ENCODER_MODULES = (
    *("embeddings.word_embeddings", "embeddings.norm"),
    *(f"layers.#.attention.{name}" for name in (*PROJECTIONS, "output")),
    *("layers.#.attention_norm", "layers.#.feed_forward_norm"),
    *("layers.#.feed_forward.intermediate", "layers.#.feed_forward.output"),
)
OPTIONAL_ENCODER_MODULES = (
    "embeddings.position_embeddings",
    "embeddings.token_type_embeddings",
    "embeddings.projection",
)
HEAD_MODULES: dict[str, tuple[str, ...]] = {
    "ForSequenceClassification": ("dense", "classifier"),
    "ForTokenClassification": ("classifier",),
    "ForMaskedLM": ("transform", "norm", "decoder"),
}

# Configuration fields that mean the same in TKD and in the other architectures, which may lack some of them.
SHARED_FIELDS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob "
    "attention_probs_dropout_prob max_position_embeddings type_vocab_size embedding_size classifier_dropout "
    "initializer_range layer_norm_eps pad_token_id bos_token_id eos_token_id tie_word_embeddings "
    "id2label label2id problem_type"
).split()


def no_unused_positions(config: PreTrainedConfig) -> int:
    """Return 0: the first token has the first position embedding, as in most architectures."""
    return 0


@dataclass(frozen=True)
class Architecture:
    """How the modules and configuration fields of an architecture map to those of TKD.

    Its maths must be BERT's: residual blocks with a LayerNorm after each, absolute positions, and a bias in every
    linear layer. Its configuration must know the names `hidden_size`, `num_hidden_layers` and `num_attention_heads`, if
    only through its `attribute_map`. Modules are named as in `model.named_modules()` with `#` for the index of a layer,
    those of the encoder without its prefix.

    Args:
        model_type: `model_type` of its configuration.
        encoder: its modules in the encoder -> TKD's, all of `ENCODER_MODULES` and any of `OPTIONAL_ENCODER_MODULES`.
            Queries, keys and values are those of objectives such as `relations`.
        heads: suffix of a class name -> the modules of that head -> TKD's (`HEAD_MODULES`).
        pooler_act: activation of the sequence classification head.
        masked_lm_act: activation of the masked-LM head; `None` if it follows `hidden_act`.
        config: TKD's configuration fields (`SHARED_FIELDS`) -> the architecture's, if their names differ.
        constants: TKD fields with a value that the architecture's code fixes, such as `type_vocab_size=0`.
        unused_positions: a function of the configuration that returns how many leading rows of the position embeddings
            no token uses.
        stock: suffix of a class name -> the class of transformers that a TKD can be written back to (`to_bert`).
        tied_biases: weights that the stock classes save twice -> the module whose bias they repeat.

    Example:

    ```python
    >>> from tkd_hf.models.architectures import DISTILBERT
    >>> DISTILBERT.projections()["query"]
    'transformer.layer.#.attention.q_lin'

    ```
    """

    model_type: str
    encoder: Mapping[str, str]
    heads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pooler_act: str = "tanh"
    masked_lm_act: str | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    unused_positions: Callable[[PreTrainedConfig], int] = no_unused_positions
    stock: Mapping[str, type[PreTrainedModel]] = field(default_factory=dict)
    tied_biases: Mapping[str, str] = field(default_factory=dict)

    def module_names(self, head: str, prefix: str) -> dict[str, str]:
        """Return its module names -> TKD's, as in the state dict of a model with this head.

        Args:
            head: suffix of a class name, from `TKD_CLASSES`.
            prefix: name of the encoder in a model with a head (`base_model_prefix`).

        Raises:
            InputError: if the table does not name the modules of this head.
        """
        if head == "Model":
            return dict(self.encoder)
        if head not in self.heads:
            names = ", ".join(self.heads) or "none"
            raise InputError(f"the architecture {self.model_type} has no {head} in the table of TKD, only {names}")
        encoder_names = {f"{prefix}.{name}": f"tkd.{tkd_name}" for name, tkd_name in self.encoder.items()}
        return encoder_names | dict(self.heads[head])

    def projections(self) -> dict[str, str]:
        """Return its names of the modules that compute queries, keys and values, by TKD's (`PROJECTIONS`)."""
        names = {tkd_name: name for name, tkd_name in self.encoder.items()}
        return {projection: names[f"layers.#.attention.{projection}"] for projection in PROJECTIONS}


_EMBEDDINGS = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.token_type_embeddings": "embeddings.token_type_embeddings",
    "embeddings.LayerNorm": "embeddings.norm",
}
_BERT_ENCODER = _EMBEDDINGS | {
    "encoder.layer.#.attention.self.query": "layers.#.attention.query",
    "encoder.layer.#.attention.self.key": "layers.#.attention.key",
    "encoder.layer.#.attention.self.value": "layers.#.attention.value",
    "encoder.layer.#.attention.output.dense": "layers.#.attention.output",
    "encoder.layer.#.attention.output.LayerNorm": "layers.#.attention_norm",
    "encoder.layer.#.intermediate.dense": "layers.#.feed_forward.intermediate",
    "encoder.layer.#.output.dense": "layers.#.feed_forward.output",
    "encoder.layer.#.output.LayerNorm": "layers.#.feed_forward_norm",
}
_TOKEN_HEAD = {"classifier": "classifier"}
_DENSE_HEAD = {"classifier.dense": "dense", "classifier.out_proj": "classifier"}

BERT = Architecture(
    model_type="bert",
    encoder=_BERT_ENCODER,
    heads={
        "ForSequenceClassification": {"bert.pooler.dense": "dense", "classifier": "classifier"},
        "ForTokenClassification": _TOKEN_HEAD,
        "ForMaskedLM": {
            "cls.predictions.transform.dense": "transform",
            "cls.predictions.transform.LayerNorm": "norm",
            "cls.predictions.decoder": "decoder",
        },
    },
    stock={
        "Model": BertModel,
        "ForSequenceClassification": BertForSequenceClassification,
        "ForTokenClassification": BertForTokenClassification,
        "ForMaskedLM": BertForMaskedLM,
    },
    tied_biases={"cls.predictions.bias": "cls.predictions.decoder"},
)

ROBERTA = Architecture(
    model_type="roberta",
    encoder=_BERT_ENCODER,
    heads={
        "ForSequenceClassification": _DENSE_HEAD,
        "ForTokenClassification": _TOKEN_HEAD,
        "ForMaskedLM": {"lm_head.dense": "transform", "lm_head.layer_norm": "norm", "lm_head.decoder": "decoder"},
    },
    masked_lm_act="gelu",
    unused_positions=lambda config: config.pad_token_id + 1,  # where it starts to count
)

DISTILBERT = Architecture(
    model_type="distilbert",
    encoder=_EMBEDDINGS
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
    heads={
        "ForSequenceClassification": {"pre_classifier": "dense", "classifier": "classifier"},
        "ForTokenClassification": _TOKEN_HEAD,
        "ForMaskedLM": {"vocab_transform": "transform", "vocab_layer_norm": "norm", "vocab_projector": "decoder"},
    },
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
    model_type="electra",
    encoder=_BERT_ENCODER | {"embeddings_project": "embeddings.projection"},
    heads={
        "ForSequenceClassification": _DENSE_HEAD,
        "ForTokenClassification": _TOKEN_HEAD,
        "ForMaskedLM": {
            "generator_predictions.dense": "transform",
            "generator_predictions.LayerNorm": "norm",
            "generator_lm_head": "decoder",
        },
    },
    pooler_act="gelu",
    masked_lm_act="gelu",
)

# TKD itself is not in the table: nothing has to be converted.
TKD = Architecture(
    model_type="tkd",
    encoder={name: name for name in (*ENCODER_MODULES, *OPTIONAL_ENCODER_MODULES)},
    heads={head: {name: name for name in names} for head, names in HEAD_MODULES.items()},
)

ARCHITECTURES: dict[str, Architecture] = {}


def register_architecture(architecture: Architecture, *, replace_existing: bool = False) -> None:
    """Add a teacher architecture to the table, so that students can be cut out of its models.

    Call it after `import tkd_hf`, before the first model of that architecture is used. If the architecture is not part
    of transformers, register its configuration and classes with the Auto classes as well, to load it by name.

    Args:
        architecture: the modules and fields of the architecture.
        replace_existing: replace an architecture with the same `model_type`.

    Raises:
        InputError: if modules are missing or unknown to TKD, or if the `model_type` is in the table already.

    Example:

    ```python
    from dataclasses import replace

    from tkd_hf.models.architectures import ROBERTA, register_architecture

    register_architecture(replace(ROBERTA, model_type="xlm-roberta"))  # the same modules under another name
    ```
    """
    model_type = architecture.model_type
    if model_type in (*ARCHITECTURES, TKD.model_type) and not replace_existing:
        raise InputError(f"model_type={model_type!r} is registered already; pass replace_existing=True to replace it")
    _check_modules(f"encoder of {model_type}", architecture.encoder, ENCODER_MODULES, OPTIONAL_ENCODER_MODULES)
    for head, names in architecture.heads.items():
        if head not in HEAD_MODULES:
            raise InputError(f"TKD has no head {head!r} for {model_type}; choose among {', '.join(HEAD_MODULES)}")
        _check_modules(f"{head} of {model_type}", names, HEAD_MODULES[head])
    ARCHITECTURES[model_type] = architecture


def _check_modules(
    part: str, names: Mapping[str, str], required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    missing = sorted(set(required) - set(names.values()))
    unknown = sorted(set(names.values()) - {*required, *optional})
    if missing or unknown:
        problems = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"names unknown {', '.join(unknown)}"] * bool(
            unknown
        )
        raise InputError(f"the {part} {' and '.join(problems)}; TKD has {', '.join((*required, *optional))}")


for _architecture in (BERT, ROBERTA, DISTILBERT, ELECTRA):
    register_architecture(_architecture)


def is_convertible(config: PreTrainedConfig) -> bool:
    """Return whether models of this architecture convert to TKD, or are TKD."""
    return config.model_type in (*ARCHITECTURES, TKD.model_type)


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """Return the architecture of a configuration.

    Raises:
        InputError: if the model is a decoder, or its architecture is not in the table.
    """
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
    """Return how many leading rows of the position embeddings no token uses; 0 for an architecture not in the table.

    roberta counts positions from `pad_token_id + 1`, the other architectures from 0.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    return 0 if architecture is None else architecture.unused_positions(config)


def max_input_length(config: PreTrainedConfig) -> float:
    """Return the number of tokens that a model can read; infinity if it has no table of positions."""
    is_relative = not getattr(config, "position_biased_input", True)  # deberta-v2 and -v3
    if getattr(config, "position_embedding_type", None) == "sinusoidal" or is_relative:
        return inf
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:  # xlnet says -1
        return inf
    if config.model_type in _POSITIONS_AFTER_PADDING:
        return positions - (config.pad_token_id or 0) - 1
    return positions - unused_positions(config)


def head_type(model: PreTrainedModel | type) -> str:
    """Return which head a model or class has, as the suffix of its class name.

    Returns:
        `"Model"` (no head), `"ForSequenceClassification"`, `"ForTokenClassification"` or `"ForMaskedLM"`.

    Raises:
        InputError: if TKD does not have this head.
    """
    return head_of_class((model if isinstance(model, type) else type(model)).__name__)


def head_of_class(class_name: str) -> str:
    """Return which head a class of this name has; see `head_type`."""
    for suffix in TKD_CLASSES:
        if class_name.endswith(suffix):
            return suffix
    raise InputError(
        f"{class_name} has no counterpart in TKD, which has: {', '.join(TKD_CLASSES)}; load it as one of these"
    )
