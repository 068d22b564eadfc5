"""Prune a vocabulary: keep the tokens that a corpus uses, with the same logits on that corpus."""

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from datasets import Dataset
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..core.errors import InputError
from ..data.labels import holds_word_lists
from ..data.tokenization import with_leading_spaces
from .fast_tokenizer import Text, encode_texts, prune_tokenizer, required_token_ids, tokens_of, unknown_token


logger = logging.getLogger(__name__)

ModelType = TypeVar("ModelType", bound=PreTrainedModel)


@dataclass(frozen=True)
class HeldOutReport:
    """How a smaller vocabulary affects texts that are not in its corpus.

    Attributes:
        texts: number of texts.
        changed: share of the texts that are now split into different tokens.
        unknown_before, unknown_after: share of the tokens that are the unknown token.
        tokens_before, tokens_after: mean number of tokens per text, including special tokens. More tokens take longer.
    """

    texts: int
    changed: float
    unknown_before: float
    unknown_after: float
    tokens_before: float
    tokens_after: float

    def __str__(self) -> str:
        return (
            f"{self.texts} held-out texts: {self.changed:.1%} are split into different tokens; "
            f"unknown tokens {self.unknown_before:.2%} -> {self.unknown_after:.2%}, "
            f"tokens per text {self.tokens_before:.1f} -> {self.tokens_after:.1f}"
        )


@dataclass(frozen=True)
class VocabularyReport:
    """Effects of pruning a vocabulary; `str()` summarises them in one or two lines.

    Attributes:
        tokens_before, tokens_after: number of rows of the word embeddings.
        megabytes_before, megabytes_after: size of the saved weights, in 10⁶ bytes.
        kept: old id of each token that stays, in the order of the new ids.
        held_out: effect on texts that are not in the corpus; `None` if no such texts were given.
    """

    tokens_before: int
    tokens_after: int
    megabytes_before: float
    megabytes_after: float
    kept: tuple[int, ...]
    held_out: HeldOutReport | None = None

    @property
    def megabytes_saved(self) -> float:
        return self.megabytes_before - self.megabytes_after

    def removed_tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return the removed tokens in the order of their old ids.

        Args:
            tokenizer: the tokenizer before pruning.
        """
        return tokens_of(tokenizer, sorted(set(tokenizer.get_vocab().values()) - set(self.kept)))

    def __str__(self) -> str:
        line = (
            f"vocabulary {self.tokens_before} -> {self.tokens_after} tokens: {self.megabytes_saved:.1f} MB saved "
            f"({self.megabytes_before:.1f} -> {self.megabytes_after:.1f} MB)"
        )
        return f"{line}\n  {self.held_out}" if self.held_out else line


def prune_vocabulary(
    model: ModelType,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Text],
    held_out: Iterable[Text] = (),
) -> tuple[ModelType, PreTrainedTokenizerBase, VocabularyReport]:
    """Return a model and a tokenizer with only the tokens that a corpus needs, and the same logits on that corpus.

    Use it if embeddings are most of the model, as in small students: it is often the largest reduction in size, and it
    needs no training. It does not make the model faster, because embeddings are looked up, not multiplied.

    Special tokens, added tokens, single characters and bytes stay, so any text can still be encoded. Texts outside the
    corpus may be split into different and more tokens, which changes predictions on them. Pass `held_out` to see how
    many texts are affected, and enlarge the corpus if there are too many.

    The function verifies that the new tokenizer splits the corpus into the same tokens. The logits on the corpus are
    then the same as well, because rows of the word embeddings only change position.

    Args:
        model: any encoder, with or without a head; the decoder of a masked-LM head is pruned with it. It is not
            changed.
        tokenizer: fast tokenizer of the model (WordPiece, BPE, Unigram or WordLevel). It is not changed.
        texts: the corpus: texts, pairs of texts as tuples, or lists of words. `corpus_texts` returns those of a
            dataset.
        held_out: texts to measure the effect on, such as the evaluation split.

    Returns:
        the model, the tokenizer, and a report of the changes.

    Raises:
        InputError: if the corpus is empty, if the tokenizer cannot be pruned or does not belong to the model, or if the
            model has other weights per token than word embeddings and decoder.

    Example:

    ```python
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    >>> from tkd_hf.pruning.vocabulary import prune_vocabulary

    >>> words = ["[PAD]", "[UNK]", "a", "##b", "film", "very", "good"]
    >>> pieces = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    >>> pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]")
    >>> model = BertModel(BertConfig(vocab_size=7, num_hidden_layers=1))

    >>> model, tokenizer, report = prune_vocabulary(model, tokenizer, ["good film"])
    >>> tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    ['[PAD]', '[UNK]', 'a', '##b', 'film', 'good']
    >>> model.config.vocab_size, report.kept
    (6, (0, 1, 2, 3, 4, 6))

    ```
    """
    texts, held_out = list(texts), list(held_out)
    if not texts:
        raise InputError("the corpus is empty, so it does not say which tokens to keep; give at least one text")
    _check_tokenizer_of_model(model, tokenizer)
    token_ids = required_token_ids(tokenizer, texts, _ids_used_by_model(model))
    smaller = prune_tokenizer(tokenizer, token_ids)
    _check_same_tokens(tokenizer, smaller, texts, token_ids)
    pruned = _prune_model(model, token_ids)
    report = VocabularyReport(
        tokens_before=_embedding_rows(model),
        tokens_after=len(token_ids),
        megabytes_before=model.get_memory_footprint(return_buffers=False) / 1e6,
        megabytes_after=pruned.get_memory_footprint(return_buffers=False) / 1e6,
        kept=tuple(token_ids),
        held_out=_compare_held_out(tokenizer, smaller, held_out) if held_out else None,
    )
    logger.info(str(report))
    return pruned, smaller, report


def corpus_texts(examples: Dataset) -> Iterator[Text]:
    """Yield the texts of a dataset with a column `text` and optionally `text_pair`, for `prune_vocabulary`.

    A row gives one text, a pair as a tuple, or a list of words if its text is already split into words. Words are
    written as the tokenizer reads them in training, with leading spaces.
    """
    columns = [column for column in ("text", "text_pair") if column in examples.column_names]
    split_into_words = holds_word_lists(examples, columns)
    for row in examples.select_columns(columns):
        texts = tuple(row[column] for column in columns)
        if split_into_words:
            yield with_leading_spaces(list(texts))[0]
        else:
            yield texts if len(texts) > 1 else texts[0]


def _embedding_rows(model: PreTrainedModel) -> int:
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)  # encoders of text embed tokens
    return embeddings.num_embeddings


def _check_tokenizer_of_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise an `InputError` if the tokenizer has tokens without embeddings, or lacks tokens of the configuration."""
    vocabulary_ids = set(tokenizer.get_vocab().values())
    last, rows = max(vocabulary_ids), _embedding_rows(model)
    if last >= rows:
        raise InputError(
            f"the tokenizer's last token has id {last}, but the model has {rows} word embeddings; pass the model's own "
            "tokenizer"
        )
    for name, ids in _configured_token_ids(model.config).items():
        if missing := set(ids) - vocabulary_ids:
            raise InputError(
                f"{name}={missing.pop()} in the model's configuration is not among the tokenizer's "
                f"{len(vocabulary_ids)} tokens; pass the model's own tokenizer, or correct the configuration"
            )


def _check_same_tokens(
    tokenizer: PreTrainedTokenizerBase, smaller: PreTrainedTokenizerBase, texts: list[Text], token_ids: list[int]
) -> None:
    """Raise an `InputError` if the smaller tokenizer splits a text into different tokens."""
    for text, before, after in zip(texts, encode_texts(tokenizer, texts), encode_texts(smaller, texts), strict=True):
        if before != [token_ids[new_id] for new_id in after]:
            old_tokens, new_tokens = tokens_of(tokenizer, before), tokens_of(smaller, after)
            raise InputError(
                f"the smaller vocabulary splits {text!r} into {new_tokens} instead of {old_tokens}, so this tokenizer "
                "cannot be pruned; choose a model with a WordPiece or BPE tokenizer"
            )


def _ids_used_by_model(model: PreTrainedModel) -> set[int]:
    """Return the ids of tokens that the model itself refers to."""
    token_ids = {token_id for ids in _configured_token_ids(model.config).values() for token_id in ids}
    padding, word_embeddings = model.config.pad_token_id, model.get_input_embeddings()
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    # RoBERTa counts positions from the padding id, so this id must not change: keep all tokens before it.
    if padding is not None and any(
        module.padding_idx == padding for module in embeddings if module is not word_embeddings
    ):
        token_ids.update(range(padding))
    return token_ids


def _configured_token_ids(config: PretrainedConfig) -> dict[str, list[int]]:
    """Return the fields of a configuration that name tokens, each as a list of ids."""
    fields = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    fields = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    return {name: ids for name, ids in fields.items() if None not in ids}


def _prune_model(model: ModelType, token_ids: list[int]) -> ModelType:
    """Return a copy of the model with only these rows of its word embeddings, and of its decoder if it has one."""
    config, new_ids = copy.deepcopy(model.config), {old: new for new, old in enumerate(token_ids)}
    config.vocab_size = len(token_ids)
    for name, ids in _configured_token_ids(model.config).items():
        renumbered = [new_ids[token_id] for token_id in ids]
        setattr(config, name, renumbered if isinstance(getattr(config, name), list) else renumbered[0])
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    per_token = {id(parameter) for module in modules if module is not None for parameter in module.parameters()}
    names = {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in per_token}
    weights = {name: value[token_ids] if name in names else value for name, value in model.state_dict().items()}
    with torch.random.fork_rng():
        smaller = type(model)(config)
    try:
        smaller.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{type(model).__name__} has weights per token besides word embeddings and decoder, so its vocabulary "
            "cannot be pruned; use another head or another architecture"
        ) from error
    smaller.to(device=model.device, dtype=model.dtype)  # type: ignore[call-arg]  # transformers wraps `to` without types
    return smaller.train(model.training)


def _compare_held_out(
    tokenizer: PreTrainedTokenizerBase, smaller: PreTrainedTokenizerBase, texts: list[Text]
) -> HeldOutReport:
    """Count how the smaller tokenizer changes the tokens of these texts."""
    unknown = unknown_token(tokenizer)
    changed, unknown_counts, token_counts = 0, [0, 0], [0, 0]
    for old_ids, new_ids in zip(encode_texts(tokenizer, texts), encode_texts(smaller, texts), strict=True):
        old_tokens, new_tokens = tokens_of(tokenizer, old_ids), tokens_of(smaller, new_ids)
        changed += old_tokens != new_tokens
        for index, tokens in enumerate((old_tokens, new_tokens)):
            unknown_counts[index] += 0 if unknown is None else tokens.count(unknown)
            token_counts[index] += len(tokens)
    unknown_shares = [count / total for count, total in zip(unknown_counts, token_counts, strict=True)]
    tokens_per_text = [total / len(texts) for total in token_counts]
    return HeldOutReport(len(texts), changed / len(texts), *unknown_shares, *tokens_per_text)
