"""From texts to features: tokenisation for student and teacher, and the collator that pads both."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from .word_labels import IGNORED_LABEL, holds_word_lists, label_first_subwords


# Features for a teacher with another tokenizer stand beside the student's, under this prefix; those for a second and
# third teacher under `teacher2_` and `teacher3_`.
TEACHER_PREFIX = "teacher_"
TEACHER_LOGITS = "teacher_logits"


def teacher_prefix(place: int) -> str:
    """The prefix of the features for the teacher at that place, from 0."""
    return TEACHER_PREFIX if place == 0 else f"teacher{place + 1}_"


def tokenize(
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 128,
    teacher_tokenizer: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase] | None = None,
) -> Dataset:
    """Adds features to examples and drops their texts; order and number of examples stay.

    Args:
        examples: rows with `text`, perhaps `text_pair` and `label`, as `load_split` gives them. Where `text` is a list
            of words, `label` is one of their codes.
        tokenizer: the student's tokenizer.
        max_length: tokens at which an example is cut.
        teacher_tokenizer: the teacher's, or those of several in order. Where one differs from the student's, its
            features get the prefix `teacher_`, of a second teacher `teacher2_`.

    Returns:
        rows with `input_ids` and what else the tokenizer gives, not padded, and `label` where there was one: a word's
        code at its first subword, -100 at all other tokens, and nothing of words that were cut off.

    Raises:
        InputError: for lists of words, if the teacher's tokenizer differs, or the tokenizer cannot tell which token is
            of which word.
    """
    texts = [column for column in ("text", "text_pair") if column in examples.column_names]
    tokenizers = {"": tokenizer}
    for place, other in enumerate(to_tuple(teacher_tokenizer)):
        if not same_tokenizer(tokenizer, other):
            tokenizers[teacher_prefix(place)] = other
    of_words = holds_word_lists(examples, texts)
    if of_words:
        _check_alignable(list(tokenizers.values()))

    def encode(batch):
        features = {}
        for prefix, encoder in tokenizers.items():
            limit = min(max_length, encoder.model_max_length)
            columns = [with_leading_spaces(batch[column]) if of_words else batch[column] for column in texts]
            encoded = encoder(*columns, truncation=True, max_length=limit, is_split_into_words=of_words)
            features |= {prefix + name: values for name, values in encoded.items()}
        if of_words and "label" in batch:
            features["label"] = [
                label_first_subwords(encoded.word_ids(i), tags) for i, tags in enumerate(batch["label"])
            ]
        return features

    return examples.map(encode, batched=True, remove_columns=texts, desc="tokenising")


def with_leading_spaces(texts: list[list[str]]) -> list[list[str]]:
    """Words as they stand in running text: byte-level tokenizers write the space before a word into its first token."""
    return [[words[0], *(f" {word}" for word in words[1:])] for words in texts]


def _check_alignable(tokenizers: list[PreTrainedTokenizerBase]):
    if len(tokenizers) > 1:
        student, teacher = map(_describe, tokenizers[:2])
        raise InputError(
            f"the tokenizers of the student, {student}, and the teacher, {teacher}, differ, so their tokens cannot be "
            "compared one by one, as token classification needs; choose a teacher with the student's tokenizer"
        )
    if not tokenizers[0].is_fast:
        raise InputError(
            f"{_describe(tokenizers[0])} does not say which token is of which word, as token classification needs; "
            "choose a model with a fast tokenizer"
        )


def _describe(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"{tokenizer.name_or_path or type(tokenizer).__name__} ({len(tokenizer)} tokens)"


def teacher_features(features: Dataset, place: int = 0) -> Dataset:
    """What the teacher at that place reads of each row: the columns under its prefix if there are any, else all."""
    prefix = teacher_prefix(place)
    names = {name: name.removeprefix(prefix) for name in features.column_names if is_teacher_feature(name, place)}
    return features.select_columns(list(names)).rename_columns(names) if names else features


def is_teacher_feature(name: str, place: int | None = None) -> bool:
    """Whether a column is an input of a teacher (of the one at that place) with a tokenizer of its own."""
    if name == TEACHER_LOGITS:
        return False
    return bool(re.match(r"teacher[0-9]*_", name)) if place is None else name.startswith(teacher_prefix(place))


def iterate_rows(features: Dataset, columns: Sequence[str], at_once: int = 1000) -> Iterator[tuple]:
    """The values of columns, row by row, read many rows at once: by themselves rows take several times as long."""
    features = features.select_columns(list(columns))
    for start in range(0, len(features), at_once):
        part = features[start : start + at_once]
        yield from zip(*(part[column] for column in columns), strict=True)


def to_tuple(one_or_several) -> tuple:
    """`None`, one thing, or a sequence of them, as a tuple."""
    if one_or_several is None:
        return ()
    return tuple(one_or_several) if isinstance(one_or_several, (list, tuple)) else (one_or_several,)


def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same features: the same inputs, normaliser, vocabulary and special tokens."""
    if one is other:
        return True
    if one.model_input_names != other.model_input_names:
        return False
    if one.is_fast and other.is_fast:
        return _pipeline(one) == _pipeline(other)
    return type(one) is type(other) and one.get_vocab() == other.get_vocab()


def _pipeline(tokenizer: PreTrainedTokenizerBase) -> dict:
    """What a fast tokenizer does to a text, less truncation and padding, which every call sets anew."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: part for name, part in pipeline.items() if name not in ("truncation", "padding")}


def token_slice(length: int, tokenizer: PreTrainedTokenizerBase) -> slice:
    """Where an example's own tokens stand after padding."""
    return slice(-length, None) if tokenizer.padding_side == "left" else slice(length)


def pad(
    features: dict[str, list[list[int]]], tokenizer: PreTrainedTokenizerBase, multiple: int | None = None
) -> dict[str, torch.Tensor]:
    """What `tokenizer.pad` makes of token ids, segments and masks, without its loop over tokens: (rows, length) each.

    Args:
        features: by name, the values of each row's tokens; `attention_mask` is made if it is not there.
        tokenizer: says on which side and with what to pad.
        multiple: what the length is to be a multiple of.
    """
    fillers = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
    if not features.keys() <= fillers.keys() or tokenizer.pad_token_id is None:  # which the tokenizer knows, or refuses
        return dict(tokenizer.pad(features, pad_to_multiple_of=multiple, return_tensors="pt"))
    lengths = np.fromiter(map(len, features["input_ids"]), np.int64)
    longest = -(-lengths.max() // (multiple or 1)) * (multiple or 1)
    places = np.arange(longest)
    real = places < lengths[:, None] if tokenizer.padding_side == "right" else places >= longest - lengths[:, None]
    padded = {}
    for name, rows in features.items():
        values = np.full(real.shape, fillers[name], np.int64)
        values[real] = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
        padded[name] = torch.from_numpy(values)
    if "attention_mask" in tokenizer.model_input_names:
        padded.setdefault("attention_mask", torch.from_numpy(real.astype(np.int64)))
    return padded


@dataclass
class DistillationCollator:
    """Pads the student's features, and the teacher's where they differ, and makes tensors of everything.

    Labels and soft labels of tokens are padded as their tokens are, with -100 and 0.

    Args:
        tokenizer: pads the student's features.
        teacher_tokenizer: pads the features under `teacher_`, or several that pad those of each teacher; needed only
            where there are any.
        pad_to_multiple_of: as in `transformers.DataCollatorWithPadding`.
    """

    tokenizer: PreTrainedTokenizerBase
    teacher_tokenizer: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase] | None = None
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        student, teachers, rest = {}, {}, {}
        for name in examples[0]:
            values = [example[name] for example in examples]
            if name in self.tokenizer.model_input_names:
                student[name] = values
            elif is_teacher_feature(name):
                prefix, _, feature = name.partition("_")
                teachers.setdefault(f"{prefix}_", {})[feature] = values
            else:
                rest["labels" if name in ("label", "label_ids") else name] = values
        batch = pad(student, self.tokenizer, self.pad_to_multiple_of)
        batch |= {name: self._stack(name, values, student["input_ids"], batch) for name, values in rest.items()}
        for place, tokenizer in enumerate(to_tuple(self.teacher_tokenizer)):
            if features := teachers.get(teacher_prefix(place)):
                padded = pad(features, tokenizer, self.pad_to_multiple_of)
                batch |= {teacher_prefix(place) + name: values for name, values in padded.items()}
        return batch

    def _stack(self, name: str, values: list, input_ids: list, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """One tensor; of codes or logits for each token, padded on the side where the tokens are."""
        first = torch.as_tensor(values[0])
        codes = first.dim() == 1 and not first.is_floating_point() and [*map(len, values)] == [*map(len, input_ids)]
        if not codes and first.dim() < 2:
            return torch.as_tensor(values)
        padded = first.new_full((*batch["input_ids"].shape, *first.shape[1:]), IGNORED_LABEL if name == "labels" else 0)
        for row, value in zip(padded, values, strict=True):
            row[token_slice(len(value), self.tokenizer)] = torch.as_tensor(value)
        return padded
