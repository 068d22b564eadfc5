"""Turn texts into features: token ids for the student, and for its teachers if they have other tokenizers.

A teacher whose tokenizer differs from the student's needs features of its own. They stand in the same rows, in columns
with a prefix: `teacher_input_ids` for the first teacher, `teacher2_input_ids` for the second, and so on.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..core.errors import InputError
from ..core.names import POSITIONS
from ..core.processes import log_once
from .labels import holds_word_lists, label_first_subwords


logger = logging.getLogger(__name__)

TEACHER_PREFIX = "teacher_"
_SAMPLE = 2000
TEACHER_LOGITS = "teacher_logits"


def teacher_prefix(index: int) -> str:
    """Return the prefix of the feature columns for the teacher at that index: `teacher_`, then `teacher2_`."""
    return TEACHER_PREFIX if index == 0 else f"teacher{index + 1}_"


def tokenize(
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 128,
    teacher_tokenizer: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase] | None = None,
) -> Dataset:
    """Replace the texts of examples by token ids; the order and the number of examples stay.

    Use it on the result of `load_split` or `load_splits`, and give its result to the trainer with a
    `DistillationCollator`. If a teacher runs during training and has another tokenizer, name that tokenizer: the
    teacher cannot read the student's token ids.

    Args:
        examples: rows with `text`, and optionally `text_pair` and `label`, as `load_split` returns them. If `text` is a
            list of words, `label` is a list with one code per word.
        tokenizer: the tokenizer of the student.
        max_length: the number of tokens at which an example is truncated, special tokens included.
        teacher_tokenizer: the tokenizer of the teacher, or one per teacher in order. A tokenizer that gives the same
            features as the student's adds no columns; any other adds its features with the prefix `teacher_`
            (`teacher2_` for the second teacher).

    Returns:
        Rows with `input_ids` and the tokenizer's other outputs, unpadded, and `label` if the examples have it. For
        lists of words, the first token of a word has the word's code, and all other tokens have -100. Labels of words
        that were truncated are dropped.

    Raises:
        InputError: if `max_length` is more than a model reads (see `check_max_length`); for lists of words, if a
            teacher's tokenizer differs from the student's, or if the tokenizer cannot say which word a token belongs
            to.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> from tkd_hf.data.collation import DistillationCollator
    >>> from tkd_hf.data.tokenization import tokenize
    >>> backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "fine": 3, "film": 4}, unk_token="[UNK]"))
    >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    >>> examples = Dataset.from_dict({"text": ["a fine film", "dull"], "label": [1, 0]})
    >>> features = tokenize(examples, tokenizer)
    >>> features["input_ids"][:], features["label"][:]
    ([[2, 3, 4], [1]], [1, 0])
    >>> DistillationCollator(tokenizer)(features.to_list())["input_ids"].tolist()
    [[2, 3, 4], [1, 0, 0]]

    ```
    """
    text_columns = [column for column in ("text", "text_pair") if column in examples.column_names]
    tokenizers = {"": tokenizer}
    for index, other_tokenizer in enumerate(to_tuple(teacher_tokenizer)):
        if not same_tokenizer(tokenizer, other_tokenizer):
            tokenizers[teacher_prefix(index)] = other_tokenizer
    limits = {prefix: check_max_length(encoder, max_length) for prefix, encoder in tokenizers.items()}
    has_word_lists = holds_word_lists(examples, text_columns)
    if has_word_lists:
        _check_words_can_be_aligned(list(tokenizers.values()))

    def encode(batch: dict[str, list]) -> dict[str, list]:
        features: dict[str, list] = {}
        columns = [batch[column] for column in text_columns]
        if has_word_lists:
            columns = [with_leading_spaces(texts) for texts in columns]
        for prefix, encoder in tokenizers.items():
            encoded = encoder(*columns, truncation=True, max_length=limits[prefix], is_split_into_words=has_word_lists)
            features |= {prefix + name: values for name, values in encoded.items()}
        if has_word_lists and "label" in batch:
            features["label"] = [
                label_first_subwords(encoded.word_ids(i), labels) for i, labels in enumerate(batch["label"])
            ]
        return features

    features = examples.map(encode, batched=True, remove_columns=text_columns, desc="tokenizing")
    for prefix, encoder in tokenizers.items():
        _report_truncated(examples.select_columns(text_columns), features, prefix, encoder, limits[prefix])
    return features


def check_max_length(tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """Return the number of tokens at which a tokenizer truncates: `max_length`, or its own limit if that is smaller.

    Every command calls it before it runs a model on texts.

    Args:
        tokenizer: as `tkd_hf.models.loading.load_tokenizer` returns it, which tells it how many tokens the model reads.
        max_length: the number of tokens that the user asked for.

    Raises:
        InputError: if that is more than the model has positions for.

    Example:

    ```python
    >>> from types import SimpleNamespace
    >>> from tkd_hf.data.tokenization import check_max_length
    >>> check_max_length(SimpleNamespace(model_max_length=512), 600)
    512

    ```
    """
    limit = int(min(max_length, tokenizer.model_max_length))
    positions = getattr(tokenizer, POSITIONS, math.inf)
    if limit > positions:
        raise InputError(
            f"max_length={max_length}, but {tokenizer.name_or_path or 'the model'} reads at most {positions} tokens; "
            f"choose --max-length {positions} or less"
        )
    return limit


def _report_truncated(
    examples: Dataset, features: Dataset, prefix: str, tokenizer: PreTrainedTokenizerBase, limit: int
) -> None:
    """Log how many texts were truncated, and how long the longest is.

    Texts with fewer tokens than the limit are whole. Of the others, up to `_SAMPLE` are tokenized again to their end.
    """
    column = f"{prefix}input_ids"
    batches = features.select_columns(column).with_format("arrow").iter(10_000)
    lengths = np.concatenate([pc.list_value_length(batch[column]).to_numpy() for batch in batches])
    full = np.flatnonzero(lengths >= limit)
    if not len(full):
        return
    sample = examples.select(full[np.linspace(0, len(full) - 1, min(len(full), _SAMPLE)).astype(int)])
    columns = [sample[name][:] for name in sample.column_names]
    of_words = isinstance(columns[0][0], list)
    if of_words:
        columns = [with_leading_spaces(texts) for texts in columns]
    encoded = tokenizer(*columns, truncation=False, verbose=False, is_split_into_words=of_words)
    longest = max(map(len, encoded["input_ids"]))
    truncated = sum(len(ids) > limit for ids in encoded["input_ids"]) * len(full) / len(sample)
    if truncated:
        about = "about " if len(full) > len(sample) else ""
        log_once(
            logger,
            f"{about}{round(truncated)} of {len(examples)} texts ({truncated / len(examples):.1%}) are cut at {limit} "
            f"tokens; the longest has {longest} (--max-length sets the number)",
        )


def with_leading_spaces(texts: list[list[str]]) -> list[list[str]]:
    """Put a space before every word but the first, as in running text.

    Byte-level tokenizers make the space before a word part of the word's first token.
    """
    return [[words[0], *(f" {word}" for word in words[1:])] for words in texts]


def _check_words_can_be_aligned(tokenizers: list[PreTrainedTokenizerBase]) -> None:
    if len(tokenizers) > 1:
        student, teacher = map(_describe, tokenizers[:2])
        raise InputError(
            f"the tokenizers of the student, {student}, and the teacher, {teacher}, differ, but token classification "
            "compares their logits token by token; choose a teacher with the student's tokenizer"
        )
    if not tokenizers[0].is_fast:
        raise InputError(
            f"{_describe(tokenizers[0])} does not say which word a token belongs to, but token classification needs "
            "that; choose a model with a fast tokenizer"
        )


def _describe(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"{tokenizer.name_or_path or type(tokenizer).__name__} ({len(tokenizer)} tokens)"


def teacher_features(features: Dataset, index: int = 0) -> Dataset:
    """Return the columns that the teacher at that index reads, under their usual names.

    They are the columns with the teacher's prefix. Without such columns, the teacher shares the student's tokenizer and
    reads the student's columns.
    """
    prefix = teacher_prefix(index)
    names = {name: name.removeprefix(prefix) for name in features.column_names if is_teacher_feature(name, index)}
    return features.select_columns(list(names)).rename_columns(names) if names else features


def is_teacher_feature(name: str, index: int | None = None) -> bool:
    """Return whether a column is an input of a teacher with its own tokenizer: of any, or of the one at that index."""
    if name == TEACHER_LOGITS:
        return False
    return bool(re.match(r"teacher[0-9]*_", name)) if index is None else name.startswith(teacher_prefix(index))


def iterate_rows(features: Dataset, columns: Sequence[str], chunk_size: int = 1000) -> Iterator[tuple]:
    """Yield the values of the columns row by row.

    Rows are read in chunks, because reading them singly takes several times as long.
    """
    features = features.select_columns(list(columns))
    for start in range(0, len(features), chunk_size):
        chunk = features[start : start + chunk_size]
        yield from zip(*(chunk[column] for column in columns), strict=True)


def to_tuple(value: Any) -> tuple:
    """Return a list or tuple as a tuple, `None` as an empty one, and anything else as a tuple of one."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def same_tokenizer(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Return whether two tokenizers give the same features: same inputs, normalizer, vocabulary and special tokens."""
    if first is second:
        return True
    if first.model_input_names != second.model_input_names:
        return False
    if first.is_fast and second.is_fast:
        return _pipeline(first) == _pipeline(second)
    return type(first) is type(second) and first.get_vocab() == second.get_vocab()


def _pipeline(tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return the configuration of a fast tokenizer without truncation and padding, which every call sets itself."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: part for name, part in pipeline.items() if name not in ("truncation", "padding")}
