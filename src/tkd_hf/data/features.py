"""From texts to features: tokenisation for student and teacher, and the collator that pads both."""

import json
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase


# Features for a teacher with another tokenizer stand beside the student's, under this prefix.
TEACHER_PREFIX = "teacher_"
TEACHER_LOGITS = "teacher_logits"


def tokenize(
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 128,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Dataset:
    """Adds features to examples and drops their texts; order and number of examples stay.

    Args:
        examples: rows with `text`, perhaps `text_pair` and `label`, as `load_split` gives them.
        tokenizer: the student's tokenizer.
        max_length: tokens at which an example is cut.
        teacher_tokenizer: the teacher's, where it differs: its features get the prefix `teacher_`.

    Returns:
        rows with `input_ids` and what else the tokenizer gives, not padded, and `label` where there was one.
    """
    texts = [column for column in ("text", "text_pair") if column in examples.column_names]
    tokenizers = {"": tokenizer}
    if teacher_tokenizer is not None and not same_tokenizer(tokenizer, teacher_tokenizer):
        tokenizers[TEACHER_PREFIX] = teacher_tokenizer

    def encode(batch):
        features = {}
        for prefix, encoder in tokenizers.items():
            limit = min(max_length, encoder.model_max_length)
            encoded = encoder(*(batch[column] for column in texts), truncation=True, max_length=limit)
            features |= {prefix + name: values for name, values in encoded.items()}
        return features

    return examples.map(encode, batched=True, remove_columns=texts, desc="tokenising")


def teacher_features(features: Dataset) -> Dataset:
    """What the teacher reads of each row: the columns under `teacher_` where there are any, else all of them."""
    names = {name: name.removeprefix(TEACHER_PREFIX) for name in features.column_names if is_teacher_feature(name)}
    return features.select_columns(list(names)).rename_columns(names) if names else features


def is_teacher_feature(name: str) -> bool:
    """Whether a column is an input of a teacher with a tokenizer of its own."""
    return name.startswith(TEACHER_PREFIX) and name != TEACHER_LOGITS


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


@dataclass
class DistillationCollator:
    """Pads the student's features, and the teacher's where they differ, and makes tensors of everything.

    Args:
        tokenizer: pads the student's features.
        teacher_tokenizer: pads the features under `teacher_`; needed only where there are any.
        pad_to_multiple_of: as in `transformers.DataCollatorWithPadding`.
    """

    tokenizer: PreTrainedTokenizerBase
    teacher_tokenizer: PreTrainedTokenizerBase | None = None
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        student, teacher, rest = {}, {}, {}
        for name in examples[0]:
            values = [example[name] for example in examples]
            if name in self.tokenizer.model_input_names:
                student[name] = values
            elif is_teacher_feature(name):
                teacher[name.removeprefix(TEACHER_PREFIX)] = values
            else:
                rest["labels" if name in ("label", "label_ids") else name] = torch.as_tensor(values)
        batch = self._pad(self.tokenizer, student) | rest
        if teacher:
            padded = self._pad(self.teacher_tokenizer, teacher)
            batch |= {TEACHER_PREFIX + name: values for name, values in padded.items()}
        return batch

    def _pad(self, tokenizer: PreTrainedTokenizerBase, features: dict) -> dict[str, torch.Tensor]:
        return dict(tokenizer.pad(features, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="pt"))
