"""Turn texts into features: tokenization for the student and its teachers, and the collator that pads both.

A teacher whose tokenizer differs from the student's needs features of its own. They stand in the same rows, in columns
with a prefix: `teacher_input_ids` for the first teacher, `teacher2_input_ids` for the second, and so on.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from .word_labels import IGNORED_LABEL, holds_word_lists, label_first_subwords


TEACHER_PREFIX = "teacher_"
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
        InputError: for lists of words, if a teacher's tokenizer differs from the student's, or if the tokenizer cannot
            say which word a token belongs to.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> from tkd_hf.data.features import DistillationCollator, tokenize
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
    has_word_lists = holds_word_lists(examples, text_columns)
    if has_word_lists:
        _check_words_can_be_aligned(list(tokenizers.values()))

    def encode(batch):
        features = {}
        columns = [batch[column] for column in text_columns]
        if has_word_lists:
            columns = [with_leading_spaces(texts) for texts in columns]
        for prefix, encoder in tokenizers.items():
            limit = min(max_length, encoder.model_max_length)
            encoded = encoder(*columns, truncation=True, max_length=limit, is_split_into_words=has_word_lists)
            features |= {prefix + name: values for name, values in encoded.items()}
        if has_word_lists and "label" in batch:
            features["label"] = [
                label_first_subwords(encoded.word_ids(i), labels) for i, labels in enumerate(batch["label"])
            ]
        return features

    return examples.map(encode, batched=True, remove_columns=text_columns, desc="tokenizing")


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


def token_slice(length: int, tokenizer: PreTrainedTokenizerBase) -> slice:
    """Return where the `length` real tokens of an example are in its padded row."""
    return slice(-length, None) if tokenizer.padding_side == "left" else slice(length)


def pad(
    features: dict[str, list[list[int]]], tokenizer: PreTrainedTokenizerBase, multiple: int | None = None
) -> dict[str, torch.Tensor]:
    """Pad token ids, segment ids and attention masks to tensors of shape (rows, length).

    The result equals that of `tokenizer.pad`, which loops over the tokens in Python and is slower.

    Args:
        features: for each feature, the values of each row's tokens. `attention_mask` is added if it is missing.
        tokenizer: its padding side and padding tokens are used.
        multiple: round the length up to a multiple of this number.
    """
    fillers = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
    if not features.keys() <= fillers.keys() or tokenizer.pad_token_id is None:
        # The tokenizer pads its other features itself, and raises the usual error if it has no padding token.
        return dict(tokenizer.pad(features, pad_to_multiple_of=multiple, return_tensors="pt"))
    lengths = np.fromiter(map(len, features["input_ids"]), np.int64)
    multiple = multiple or 1
    padded_length = -(-lengths.max() // multiple) * multiple
    positions = np.arange(padded_length)
    if tokenizer.padding_side == "right":
        is_real = positions < lengths[:, None]
    else:
        is_real = positions >= padded_length - lengths[:, None]
    padded = {}
    for name, rows in features.items():
        values = np.full(is_real.shape, fillers[name], np.int64)
        values[is_real] = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
        padded[name] = torch.from_numpy(values)
    if "attention_mask" in tokenizer.model_input_names:
        padded.setdefault("attention_mask", torch.from_numpy(is_real.astype(np.int64)))
    return padded


@dataclass
class DistillationCollator:
    """Build a batch: pad the student's features and each teacher's, and stack labels and soft labels.

    Use it as the `data_collator` of a trainer whose rows come from `tokenize`. It does what
    `transformers.DataCollatorWithPadding` does, and two things more. Features of a teacher with another tokenizer are
    padded by that tokenizer; without `teacher_tokenizer` they would be missing from the batch. Labels and soft labels
    per token are padded on the same side as the tokens, with -100 and 0.

    Args:
        tokenizer: pads the student's features.
        teacher_tokenizer: pads the features with the prefix `teacher_`, or one tokenizer per teacher. Needed only if
            there are such features.
        pad_to_multiple_of: round the padded length up to a multiple of this number; 8 suits the tensor cores of GPUs.

    Returns:
        (from a call) `input_ids`, `attention_mask` and the other features as tensors of shape (batch, length); the
        teachers' features likewise, under their prefix; `labels` of shape (batch,), (batch, labels) or, per token,
        (batch, length); `teacher_logits` of shape (batch, labels) or (batch, length, labels).

    Example: see `tokenize`.
    """

    tokenizer: PreTrainedTokenizerBase
    teacher_tokenizer: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase] | None = None
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        student_columns, teacher_columns, unpadded_columns = {}, {}, {}
        for name in examples[0]:
            values = [example[name] for example in examples]
            if name in self.tokenizer.model_input_names:
                student_columns[name] = values
            elif is_teacher_feature(name):
                prefix, _, feature = name.partition("_")
                teacher_columns.setdefault(f"{prefix}_", {})[feature] = values
            else:
                unpadded_columns["labels" if name in ("label", "label_ids") else name] = values
        batch = pad(student_columns, self.tokenizer, self.pad_to_multiple_of)
        for name, values in unpadded_columns.items():
            fill_value = IGNORED_LABEL if name == "labels" else 0
            batch[name] = self._stack(values, student_columns["input_ids"], batch["input_ids"].shape, fill_value)
        for index, tokenizer in enumerate(to_tuple(self.teacher_tokenizer)):
            if columns := teacher_columns.get(teacher_prefix(index)):
                padded = pad(columns, tokenizer, self.pad_to_multiple_of)
                batch |= {teacher_prefix(index) + name: values for name, values in padded.items()}
        return batch

    def _stack(self, values: list, input_ids: list, shape: torch.Size, fill_value: int) -> torch.Tensor:
        """Make one tensor of a column; pad codes and logits per token to the shape of the padded `input_ids`."""
        first = torch.as_tensor(values[0])
        # A multi-hot label is a list of floats, so it is not taken for codes even if it is as long as the tokens.
        is_code_per_token = (
            first.dim() == 1
            and not first.is_floating_point()
            and [len(value) for value in values] == [len(ids) for ids in input_ids]
        )
        if not is_code_per_token and first.dim() < 2:
            return torch.as_tensor(values)
        padded = first.new_full((*shape, *first.shape[1:]), fill_value)
        for row, value in zip(padded, values, strict=True):
            row[token_slice(len(value), self.tokenizer)] = torch.as_tensor(value)
        return padded
