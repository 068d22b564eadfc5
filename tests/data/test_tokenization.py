"""Tokenized rows and padded batches hold what the models read, for every kind of task."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkd_hf.data.collation import DistillationCollator, pad
from tkd_hf.data.tokenization import same_tokenizer, tokenize

from ..factories import LABELS, TEXTS, WORDS, build_tokenizer


REVERSED = WORDS[:5] + WORDS[:4:-1]


def test_tokenize_keeps_order_and_labels_and_drops_texts(examples, tokenizer):
    rows = tokenize(examples, tokenizer)
    assert rows["label"][:] == LABELS
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]] == TEXTS
    assert "text" not in rows.column_names


def test_pairs_are_encoded_together_and_truncated_to_max_length(tokenizer, examples):
    pairs = examples.add_column("text_pair", TEXTS[::-1])
    rows = tokenize(pairs, tokenizer, max_length=6)
    assert max(map(len, rows["input_ids"])) == 6
    assert 1 in rows[0]["token_type_ids"]


def test_a_teacher_with_another_tokenizer_gets_prefixed_features(examples, tokenizer):
    teacher_tokenizer = build_tokenizer(REVERSED)
    rows = tokenize(examples, tokenizer, teacher_tokenizer=teacher_tokenizer)
    assert rows["teacher_input_ids"][:] == tokenize(examples, teacher_tokenizer)["input_ids"][:]
    batch = DistillationCollator(tokenizer, teacher_tokenizer)([dict(row) for row in rows])
    assert batch["teacher_input_ids"].shape == batch["input_ids"].shape
    assert batch["labels"].tolist() == LABELS


def test_a_teacher_with_the_same_tokenizer_adds_no_features(examples, tokenizer):
    equal_tokenizer = build_tokenizer()
    # The truncation and padding of a call stay in the tokenizer, but make no difference to the features.
    equal_tokenizer(TEXTS[:1], truncation=True, max_length=3, padding="max_length")
    assert same_tokenizer(tokenizer, equal_tokenizer)
    assert "teacher_input_ids" not in tokenize(examples, tokenizer, teacher_tokenizer=equal_tokenizer).column_names
    assert not same_tokenizer(tokenizer, build_tokenizer(REVERSED))


def test_tokenizers_with_different_model_inputs_are_not_the_same(tokenizer):
    without_segments = build_tokenizer()
    without_segments.model_input_names = ["input_ids", "attention_mask"]
    assert not same_tokenizer(tokenizer, without_segments)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.lists(st.integers(5, 9), min_size=1, max_size=7), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    multiple=st.sampled_from([None, 4, 8]),
    names=st.sampled_from([["input_ids"], ["input_ids", "token_type_ids"], ["input_ids", "attention_mask"]]),
)
def test_pad_equals_the_padding_of_the_tokenizer(ids, side, multiple, names):
    tokenizer = build_tokenizer(padding_side=side)
    features = {name: ids if name == "input_ids" else [[1] * len(row) for row in ids] for name in names}
    expected = tokenizer.pad(features, pad_to_multiple_of=multiple, return_tensors="pt")
    padded = pad(features, tokenizer, multiple)
    assert padded.keys() == expected.keys()
    assert all(padded[name].dtype == torch.int64 and torch.equal(padded[name], expected[name]) for name in expected)


def test_pad_leaves_other_features_and_errors_to_the_tokenizer(tokenizer):
    features = {"input_ids": [[2, 3], [2, 7, 3]], "special_tokens_mask": [[1, 1], [1, 0, 1]]}
    assert pad(features, tokenizer)["special_tokens_mask"].tolist() == [[1, 1, 1], [1, 0, 1]]
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="does not have a padding token"):
        pad({"input_ids": [[2, 3], [2, 7, 3]]}, tokenizer)


def test_the_collator_pads_features_and_stacks_labels_and_logits(tokenizer):
    rows = [
        {"input_ids": [2, 7, 3], "attention_mask": [1, 1, 1], "label": 1, "teacher_logits": [0.5, -0.5]},
        {"input_ids": [2, 3], "attention_mask": [1, 1], "label": 0, "teacher_logits": [1.0, 2.0]},
    ]
    batch = DistillationCollator(tokenizer, pad_to_multiple_of=4)(rows)
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0], [2, 3, 0, 0]]
    assert batch["attention_mask"].sum().item() == 5
    torch.testing.assert_close(batch["teacher_logits"], torch.tensor([[0.5, -0.5], [1.0, 2.0]]))
    assert batch["labels"].tolist() == [1, 0]
