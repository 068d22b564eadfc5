"""Turn tokenized rows into batches: padding, and the collator for the features of the student and its teachers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .labels import IGNORED_LABEL
from .tokenization import is_teacher_feature, teacher_prefix, to_tuple


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
        student_columns: dict[str, list] = {}
        teacher_columns: dict[str, dict[str, list]] = {}
        unpadded_columns: dict[str, list] = {}
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
