# Copyright 2026 The tkd-hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration of TKD, a small BERT-like encoder (TKD-NLP, arXiv 2405.11704).

`save_pretrained` copies this file next to the weights, so that a model loads with `trust_remote_code=True` where tkd-hf
is not installed. It therefore imports only transformers and huggingface_hub, a dependency of transformers.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# Auto class -> the class that it loads from a saved folder with `trust_remote_code=True`. `save_pretrained` would only
# write the entry of the class that is saved, but `AutoModel` should also load the encoder of a classifier.
AUTO_MAP = {
    "AutoConfig": "configuration_tkd.TKDConfig",
    "AutoModel": "modeling_tkd.TKDModel",
    "AutoModelForSequenceClassification": "modeling_tkd.TKDForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_tkd.TKDForTokenClassification",
    "AutoModelForMaskedLM": "modeling_tkd.TKDForMaskedLM",
}


def known(value: int | None) -> int:
    """Return the value of a field that may be omitted, but that `TKDConfig.__post_init__` has set."""
    assert value is not None
    return value


@strict
class TKDConfig(PreTrainedConfig):
    r"""
    Configuration of a TKD encoder and its heads. The defaults are the shape of TKD-NLP (arXiv 2405.11704): 12 layers,
    8 attention heads, hidden size 512.

    Fields that `BertConfig` also has mean the same here. The fields `heads_per_layer` and `intermediate_sizes` let each
    layer have its own width, so that an unevenly pruned student can be saved and loaded with `from_pretrained`.

    Args:
        vocab_size (`int`, defaults to 30522): number of tokens in the vocabulary; the default is BERT's uncased one.
        hidden_size (`int`, defaults to 512): width of the hidden states between layers.
        num_hidden_layers (`int`, defaults to 12): number of encoder layers.
        num_attention_heads (`int`, defaults to 8): attention heads per layer. `heads_per_layer` overrides it.
        intermediate_size (`int`, defaults to 2048): neurons per feed-forward block. `intermediate_sizes` overrides it.
        hidden_act (`str`, defaults to `"gelu"`): activation of the feed-forward blocks and of the masked-LM head.
        hidden_dropout_prob (`float`, defaults to 0.1): dropout after the embeddings, and after every attention and
            feed-forward block.
        attention_probs_dropout_prob (`float`, defaults to 0.1): dropout on the attention probabilities.
        max_position_embeddings (`int`, defaults to 512): number of learned positions, and so the longest sequence in
            tokens. Ignored with sinusoidal positions.
        position_embedding_type (`"learned"` or `"sinusoidal"`, defaults to `"learned"`): a trained embedding per
            position, or the fixed sines and cosines of Vaswani et al. (arXiv 1706.03762), which work at any length.
        type_vocab_size (`int`, defaults to 2): number of token types. With 0, as in distilbert, the model has no token
            type embeddings and ignores `token_type_ids`.
        embedding_size (`int`, *optional*): width of the embeddings; `hidden_size` by default. A smaller value saves
            parameters: one linear layer after the embeddings' LayerNorm projects to `hidden_size` (as in electra and
            albert).
        head_dim (`int`, *optional*): width of one attention head; `hidden_size // num_attention_heads` by default.
        heads_per_layer (`list[int]`, *optional*): number of attention heads for each layer in turn.
        intermediate_sizes (`list[int]`, *optional*): number of feed-forward neurons for each layer in turn.
        pooler_act (`str`, defaults to `"tanh"`): activation after the dense layer of the sequence classification head.
            bert and roberta use tanh, distilbert relu, electra gelu.
        classifier_dropout (`float`, *optional*): dropout before the classifier; `hidden_dropout_prob` by default.
        initializer_range (`float`, defaults to 0.02): standard deviation of newly initialised weights.
        layer_norm_eps (`float`, defaults to 1e-12): epsilon of every LayerNorm.
        tie_word_embeddings (`bool`, defaults to `True`): share the word embeddings with the masked-LM decoder.

    Raises:
        ValueError: if a value is out of range or two values contradict each other. The message names the values and a
            way to correct them.

    Example:

    ```python
    >>> from tkd_hf import TKDConfig

    >>> config = TKDConfig(num_hidden_layers=2, heads_per_layer=[8, 5], intermediate_sizes=[2048, 700])
    >>> config.head_dim, config.heads_of(1), config.intermediate_size_of(1)
    (64, 5, 700)

    ```
    """

    model_type = "tkd"
    # Predictions of the Trainer then hold only the logits, even when a training objective requests these outputs.
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

    def __post_init__(self, **kwargs: Any) -> None:
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        if self.head_dim is None:
            self.head_dim = self._default_head_dim()
        # Loading from a repository prefixes these file names with the repository's name. Reset them, or a model saved
        # elsewhere would still fetch its code from there.
        kwargs["auto_map"] = dict(AUTO_MAP)
        super().__post_init__(**kwargs)
        # `@strict` also calls this, but wraps errors in a class that is not a ValueError. Call it here first.
        self.validate_architecture()

    def heads_of(self, layer_idx: int) -> int:
        """Return the number of attention heads of layer `layer_idx` (from 0)."""
        return self.num_attention_heads if self.heads_per_layer is None else self.heads_per_layer[layer_idx]

    def intermediate_size_of(self, layer_idx: int) -> int:
        """Return the number of feed-forward neurons of layer `layer_idx` (from 0)."""
        return self.intermediate_size if self.intermediate_sizes is None else self.intermediate_sizes[layer_idx]

    def validate_architecture(self) -> None:
        """Check that the values fit together. `@strict` and `save_pretrained` call this.

        Raises:
            ValueError: if they do not.
        """
        super().validate_architecture()
        self._check_positive()
        self._check_ranges()
        self._check_entry_per_layer("heads_per_layer", "num_attention_heads")
        self._check_entry_per_layer("intermediate_sizes", "intermediate_size")
        if self.position_embedding_type == "sinusoidal" and known(self.embedding_size) % 2:
            raise ValueError(
                f"embedding_size={self.embedding_size} is odd, but position_embedding_type='sinusoidal' pairs every "
                "sine with a cosine; use an even embedding_size or position_embedding_type='learned'"
            )

    def _default_head_dim(self) -> int:
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}; "
                "set head_dim, or choose a number of heads that divides the hidden size"
            )
        return self.hidden_size // self.num_attention_heads

    def _check_positive(self) -> None:
        names = ("vocab_size", "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads", "head_dim")
        for name in (*names, "intermediate_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    def _check_ranges(self) -> None:
        if self.type_vocab_size < 0:
            raise ValueError(
                f"type_vocab_size={self.type_vocab_size} is negative; use 0 for a model without token types"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            probability = getattr(self, name)
            if probability is not None and not 0 <= probability < 1:
                raise ValueError(f"{name}={probability} must be a probability of at least 0 and below 1")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id={self.pad_token_id} is outside the vocabulary (vocab_size={self.vocab_size}); choose an "
                f"id from 0 to {self.vocab_size - 1}, or None"
            )
        from transformers.activations import ACT2FN  # imported late because it loads torch

        for name in ("hidden_act", "pooler_act"):
            if getattr(self, name) not in ACT2FN:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not an activation of transformers; use one such as 'gelu' or "
                    "'relu'"
                )

    def _check_entry_per_layer(self, field: str, default_field: str) -> None:
        entries = getattr(self, field)
        if entries is None:
            return
        if len(entries) != self.num_hidden_layers:
            raise ValueError(
                f"{field} has {len(entries)} entries but num_hidden_layers={self.num_hidden_layers}; give one entry "
                f"per layer, or omit {field} to use {default_field}={getattr(self, default_field)} in every layer"
            )
        if min(entries) < 1:
            raise ValueError(
                f"{field}={entries} has an entry below 1; to remove a layer altogether, reduce num_hidden_layers"
            )


__all__ = ["TKDConfig"]
