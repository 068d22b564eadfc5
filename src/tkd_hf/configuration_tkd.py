# Copyright 2026 The tkd-hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of TKD, a small BERT-like encoder (TKD-NLP, arXiv 2405.11704).

This file travels with every saved student as remote code: it imports transformers, huggingface_hub (which transformers
needs itself) and nothing else.
"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# Auto class -> the class that answers for it in a saved folder loaded with `trust_remote_code=True`. `save_pretrained`
# only adds the entry of the class being saved, and a student should also open as a bare encoder.
AUTO_MAP = {
    "AutoConfig": "configuration_tkd.TKDConfig",
    "AutoModel": "modeling_tkd.TKDModel",
    "AutoModelForSequenceClassification": "modeling_tkd.TKDForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_tkd.TKDForTokenClassification",
    "AutoModelForMaskedLM": "modeling_tkd.TKDForMaskedLM",
}


@strict
class TKDConfig(PreTrainedConfig):
    r"""
    Shape of a TKD encoder. The defaults are those of TKD-NLP (arXiv 2405.11704): 12 layers, 8 heads, hidden size 512.

    Everything that BERT's configuration also has means the same here. What is new lets a student be thinner in some
    layers than in others and still round-trip through `from_pretrained`:

    Args:
        vocab_size (`int`, defaults to 30522): number of tokens, BERT's uncased vocabulary by default.
        hidden_size (`int`, defaults to 512): width of the residual stream.
        num_hidden_layers (`int`, defaults to 12): number of encoder layers.
        num_attention_heads (`int`, defaults to 8): heads of a layer, unless `heads_per_layer` says otherwise.
        intermediate_size (`int`, defaults to 2048): neurons of a feed-forward block, unless `intermediate_sizes` says
            otherwise.
        hidden_act (`str`, defaults to `"gelu"`): activation of the feed-forward blocks and of the masked-LM head.
        hidden_dropout_prob, attention_probs_dropout_prob (`float`, default to 0.1): dropout after every block and on
            the attention probabilities.
        max_position_embeddings (`int`, defaults to 512): longest sequence a learned position table can place.
        position_embedding_type (`"learned"` or `"sinusoidal"`): a trained table, or the fixed waves of Vaswani et al.
            (arXiv 1706.03762), which have no table and so no longest sequence.
        type_vocab_size (`int`, defaults to 2): number of token types; 0 for none (distilbert), `token_type_ids` are
            then ignored.
        embedding_size (`int`, *optional*): width of the embeddings; smaller than `hidden_size` it factorises them, with
            one projection after their LayerNorm (electra, albert). `None` becomes `hidden_size`.
        head_dim (`int`, *optional*): width of one head. `None` becomes `hidden_size // num_attention_heads`.
        heads_per_layer (`list[int]`, *optional*): heads of each layer, for an unevenly pruned student.
        intermediate_sizes (`list[int]`, *optional*): feed-forward neurons of each layer, likewise.
        pooler_act (`str`, defaults to `"tanh"`): activation of the sequence head's dense layer: tanh in bert and
            roberta, relu in distilbert, gelu in electra.
        classifier_dropout (`float`, *optional*): dropout before the classifier. `None` means `hidden_dropout_prob`.
        initializer_range (`float`, defaults to 0.02): standard deviation of newly initialised weights.
        layer_norm_eps (`float`, defaults to 1e-12): epsilon of every LayerNorm.
        tie_word_embeddings (`bool`, defaults to `True`): the masked-LM decoder shares the word embeddings.

    Raises:
        ValueError: two values contradict each other; the message names both and the way out.

    Example:

    ```python
    >>> from tkd_hf import TKDConfig

    >>> config = TKDConfig(num_hidden_layers=2, heads_per_layer=[8, 5], intermediate_sizes=[2048, 700])
    >>> config.head_dim, config.heads_of(1), config.intermediate_size_of(1)
    (64, 5, 700)

    ```
    """

    model_type = "tkd"
    # the Trainer then predicts plain logits even when a student outputs its hidden states for an objective
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    vocab_size: int = 30522
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    position_embedding_type: Literal["learned", "sinusoidal"] = "learned"
    type_vocab_size: int = 2
    embedding_size: int | None = None
    head_dim: int | None = None
    heads_per_layer: list[int] | None = None
    intermediate_sizes: list[int] | None = None
    pooler_act: str = "tanh"
    classifier_dropout: float | int | None = None
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.head_dim is None:
            self.head_dim = self._default_head_dim()
        # always our own file names: those of a repository once loaded from would point back to it when saved elsewhere
        kwargs["auto_map"] = dict(AUTO_MAP)
        super().__post_init__(**kwargs)
        # `@strict` runs this too, but wraps what it raises in an error that is not a ValueError
        self.validate_architecture()

    def heads_of(self, layer_idx: int) -> int:
        """Number of attention heads of layer `layer_idx`."""
        return self.num_attention_heads if self.heads_per_layer is None else self.heads_per_layer[layer_idx]

    def intermediate_size_of(self, layer_idx: int) -> int:
        """Number of feed-forward neurons of layer `layer_idx`."""
        return self.intermediate_size if self.intermediate_sizes is None else self.intermediate_sizes[layer_idx]

    def validate_architecture(self):
        """Part of `@strict` validation, also run when saving: do the values fit together?"""
        super().validate_architecture()
        self._check_positive()
        self._check_ranges()
        self._check_one_entry_a_layer("heads_per_layer", "num_attention_heads")
        self._check_one_entry_a_layer("intermediate_sizes", "intermediate_size")
        if self.position_embedding_type == "sinusoidal" and self.embedding_size % 2:
            raise ValueError(
                f"embedding_size={self.embedding_size} is odd, but position_embedding_type='sinusoidal' pairs a sine "
                "with a cosine; use an even embedding_size or position_embedding_type='learned'"
            )

    def _default_head_dim(self) -> int:
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}; "
                "set head_dim, or choose a number of heads that divides the hidden size"
            )
        return self.hidden_size // self.num_attention_heads

    def _check_positive(self):
        names = ("vocab_size", "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads", "head_dim")
        for name in (*names, "intermediate_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, but at least 1 is needed")

    def _check_ranges(self):
        if self.type_vocab_size < 0:
            raise ValueError(f"type_vocab_size={self.type_vocab_size}, but 0 is the least: no token types")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is no share to drop; it is 0 or more, and below 1")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id={self.pad_token_id} is none of the vocab_size={self.vocab_size} tokens; give it one of "
                "them, or None"
            )
        from transformers.activations import ACT2FN  # here, as it loads torch

        for name in ("hidden_act", "pooler_act"):
            if getattr(self, name) not in ACT2FN:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is no activation that transformers knows, such as 'gelu' or 'relu'"
                )

    def _check_one_entry_a_layer(self, field: str, default_field: str):
        entries = getattr(self, field)
        if entries is None:
            return
        if len(entries) != self.num_hidden_layers:
            raise ValueError(
                f"{field} has {len(entries)} entries but num_hidden_layers={self.num_hidden_layers}; give one entry a "
                f"layer, or drop {field} to use {default_field}={getattr(self, default_field)} in every layer"
            )
        if min(entries) < 1:
            raise ValueError(
                f"{field}={entries} has an entry below 1, but every layer keeps at least one; "
                "drop the layer instead (num_hidden_layers)"
            )


__all__ = ["TKDConfig"]
