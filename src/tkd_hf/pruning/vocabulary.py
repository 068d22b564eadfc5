"""Prune a vocabulary: the tokens that a corpus uses stay, and model and tokenizer give the same answers on it."""

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.features import with_leading_spaces
from ..data.word_labels import holds_word_lists
from ..errors import InputError
from .fast_tokenizer import Text, encode_texts, prune_tokenizer, required_token_ids, unknown_token


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOutReport:
    """How a smaller vocabulary reads texts that it was not cut for.

    Attributes:
        texts: how many.
        changed: share of the texts that are now other tokens.
        unknown_before, unknown_after: share of the tokens that are the unknown token.
        tokens_before, tokens_after: mean tokens of a text, special ones included: what it costs to read.
    """

    texts: int
    changed: float
    unknown_before: float
    unknown_after: float
    tokens_before: float
    tokens_after: float

    def __str__(self) -> str:
        return (
            f"{self.texts} held-out texts: {self.changed:.1%} are other tokens than before; "
            f"unknown tokens {self.unknown_before:.2%} -> {self.unknown_after:.2%}, "
            f"tokens a text {self.tokens_before:.1f} -> {self.tokens_after:.1f}"
        )


@dataclass(frozen=True)
class VocabularyReport:
    """What pruning a vocabulary took and gave; `str()` says it in a line or two.

    Attributes:
        tokens_before, tokens_after: rows of the word embeddings.
        megabytes_before, megabytes_after: of the weights as they are saved, in 10⁶ bytes.
        kept: the former id of each token, in the order of the new ids.
        held_out: how texts beside the corpus are affected, where there were any.
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
        """The tokens of the former tokenizer that went, in the order of their ids."""
        return tokenizer.convert_ids_to_tokens(sorted(set(tokenizer.get_vocab().values()) - set(self.kept)))

    def __str__(self) -> str:
        line = (
            f"vocabulary {self.tokens_before} -> {self.tokens_after} tokens: {self.megabytes_saved:.1f} MB saved "
            f"({self.megabytes_before:.1f} -> {self.megabytes_after:.1f} MB)"
        )
        return f"{line}\n  {self.held_out}" if self.held_out else line


def prune_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Text],
    held_out: Iterable[Text] = (),
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, VocabularyReport]:
    """A model and a tokenizer that know only the tokens of a corpus, with the same answers on it.

    Special and added tokens stay, and single characters and bytes, so that other texts can still be written, in more
    tokens. That the corpus is the same tokens as before is checked, and the logits are then the same, too: a token's
    row of the word embeddings moves, and nothing else changes. Embeddings are looked up, not multiplied, so this makes
    a model smaller, not faster.

    Args:
        model: any encoder, with a head or without; a masked-LM head is cut with it. It stays as it is.
        tokenizer: its fast tokenizer (WordPiece, BPE, Unigram or WordLevel), which stays as it is, too.
        texts: the corpus: texts, pairs as tuples, or lists of words (`corpus_texts` gives those of a data set).
        held_out: other texts, to see how they are affected.

    Returns:
        the model, the tokenizer, and what changed.

    Raises:
        InputError: if the tokenizer cannot be cut, or does not belong to the model.

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
        raise InputError("the corpus is empty, so there is no telling which tokens it uses; give at least one text")
    _check_belongs(model, tokenizer)
    kept = required_token_ids(tokenizer, texts, _ids_of_the_model(model))
    smaller = prune_tokenizer(tokenizer, kept)
    _check_same(tokenizer, smaller, texts, kept)
    pruned = _cut_model(model, kept)
    report = VocabularyReport(
        tokens_before=model.get_input_embeddings().num_embeddings,
        tokens_after=len(kept),
        megabytes_before=model.get_memory_footprint(return_buffers=False) / 1e6,
        megabytes_after=pruned.get_memory_footprint(return_buffers=False) / 1e6,
        kept=tuple(kept),
        held_out=_compare(tokenizer, smaller, held_out) if held_out else None,
    )
    logger.info(str(report))
    return pruned, smaller, report


def corpus_texts(examples: Dataset) -> Iterator[Text]:
    """The texts of rows with `text`, and perhaps `text_pair`, as `load_split` gives them."""
    columns = [column for column in ("text", "text_pair") if column in examples.column_names]
    of_words = holds_word_lists(examples, columns)
    for row in examples.select_columns(columns):
        texts = tuple(row[column] for column in columns)
        yield with_leading_spaces(texts)[0] if of_words else texts if len(texts) > 1 else texts[0]


def _check_belongs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
    last, rows = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if last >= rows:
        raise InputError(
            f"the tokenizer's last token is number {last}, but the model has {rows} word embeddings; "
            "give the model's own tokenizer"
        )
    known = set(tokenizer.get_vocab().values())
    for name, ids in _token_ids(model.config).items():
        if missing := set(ids) - known:
            raise InputError(
                f"{name}={missing.pop()} of the model's configuration is none of the tokenizer's {len(known)} tokens; "
                "give the model's own tokenizer, or correct the configuration"
            )


def _check_same(
    tokenizer: PreTrainedTokenizerBase, smaller: PreTrainedTokenizerBase, texts: list[Text], kept: list[int]
):
    for text, before, after in zip(texts, encode_texts(tokenizer, texts), encode_texts(smaller, texts), strict=True):
        if before != [kept[id_] for id_ in after]:
            was, is_ = tokenizer.convert_ids_to_tokens(before), smaller.convert_ids_to_tokens(after)
            raise InputError(
                f"the smaller vocabulary reads {text!r} as {is_}, no longer as {was}, so this tokenizer cannot be cut; "
                "choose a model with a WordPiece or BPE tokenizer"
            )


def _ids_of_the_model(model: PreTrainedModel) -> set[int]:
    """Tokens that the model itself refers to."""
    ids = {id_ for ids in _token_ids(model.config).values() for id_ in ids}
    padding, words = model.config.pad_token_id, model.get_input_embeddings()
    others = (module for module in model.modules() if isinstance(module, nn.Embedding) and module is not words)
    if padding is not None and any(module.padding_idx == padding for module in others):
        ids.update(range(padding))  # roberta counts positions from the id of padding, which has to stay
    return ids


def _token_ids(config: PretrainedConfig) -> dict[str, list[int]]:
    """The fields of a configuration that name tokens."""
    fields = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    fields = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    return {name: ids for name, ids in fields.items() if None not in ids}


def _cut_model(model: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """The same model with these rows of its word embeddings, and of a decoder that gives a score for each token."""
    config, new_ids = copy.deepcopy(model.config), {old: new for new, old in enumerate(kept)}
    config.vocab_size = len(kept)
    for name, ids in _token_ids(model.config).items():
        new = [new_ids[id_] for id_ in ids]
        setattr(config, name, new if isinstance(getattr(config, name), list) else new[0])
    heads = [model.get_input_embeddings(), model.get_output_embeddings()]
    cut = {id(parameter) for head in heads if head is not None for parameter in head.parameters()}
    names = {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in cut}
    weights = {name: value[kept] if name in names else value for name, value in model.state_dict().items()}
    with torch.random.fork_rng():
        smaller = type(model)(config)
    try:
        smaller.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{type(model).__name__} holds more of its vocabulary than its word embeddings and its decoder, so it "
            "cannot be cut; take another head, or another architecture"
        ) from error
    return smaller.to(device=model.device, dtype=model.dtype).train(model.training)


def _compare(tokenizer: PreTrainedTokenizerBase, smaller: PreTrainedTokenizerBase, texts: list[Text]) -> HeldOutReport:
    changed, unknown, tokens = 0, [0, 0], [0, 0]
    for pair in zip(encode_texts(tokenizer, texts), encode_texts(smaller, texts), strict=True):
        read = [part.convert_ids_to_tokens(ids) for part, ids in zip((tokenizer, smaller), pair, strict=True)]
        changed += read[0] != read[1]
        for place, words in enumerate(read):
            unknown[place] += words.count(unknown_token(tokenizer))
            tokens[place] += len(words)
    shares = [count / total for count, total in zip(unknown, tokens, strict=True)]
    return HeldOutReport(len(texts), changed / len(texts), *shares, *(total / len(texts) for total in tokens))
