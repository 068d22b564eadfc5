"""Padding of features, labels and soft labels to batches."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkd_hf.data.collation import DistillationCollator, pad

from ..conftest import build_tokenizer


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
