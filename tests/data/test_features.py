"""Tokenisation and padding, for one tokenizer and for two."""

import torch

from tkd_hf.data.features import DistillationCollator, same_tokenizer, tokenize

from ..conftest import LABELS, TEXTS, WORDS, build_tokenizer


REVERSED = WORDS[:5] + WORDS[:4:-1]


def test_features_keep_order_and_labels(examples, tokenizer):
    rows = tokenize(examples, tokenizer)
    assert rows["label"][:] == LABELS
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]] == TEXTS
    assert "text" not in rows.column_names


def test_pairs_and_truncation(tokenizer, examples):
    pairs = examples.add_column("text_pair", TEXTS[::-1])
    rows = tokenize(pairs, tokenizer, max_length=6)
    assert max(map(len, rows["input_ids"])) == 6
    assert 1 in rows[0]["token_type_ids"]


def test_two_tokenizers_stand_side_by_side(examples, tokenizer):
    other = build_tokenizer(REVERSED)
    rows = tokenize(examples, tokenizer, teacher_tokenizer=other)
    assert rows["teacher_input_ids"][:] == tokenize(examples, other)["input_ids"][:]
    batch = DistillationCollator(tokenizer, other)([dict(row) for row in rows])
    assert batch["teacher_input_ids"].shape == batch["input_ids"].shape
    assert batch["labels"].tolist() == LABELS


def test_the_same_tokenizer_is_not_written_twice(examples, tokenizer):
    other = build_tokenizer()
    other(TEXTS[:1], truncation=True, max_length=3, padding="max_length")  # settings of a call say nothing
    assert same_tokenizer(tokenizer, other)
    assert "teacher_input_ids" not in tokenize(examples, tokenizer, teacher_tokenizer=other).column_names
    assert not same_tokenizer(tokenizer, build_tokenizer(REVERSED))


def test_tokenizers_that_give_other_inputs_differ(tokenizer):
    other = build_tokenizer()
    other.model_input_names = ["input_ids", "attention_mask"]
    assert not same_tokenizer(tokenizer, other)


def test_the_collator_pads_and_stacks(tokenizer):
    rows = [
        {"input_ids": [2, 7, 3], "attention_mask": [1, 1, 1], "label": 1, "teacher_logits": [0.5, -0.5]},
        {"input_ids": [2, 3], "attention_mask": [1, 1], "label": 0, "teacher_logits": [1.0, 2.0]},
    ]
    batch = DistillationCollator(tokenizer, pad_to_multiple_of=4)(rows)
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0], [2, 3, 0, 0]]
    assert batch["attention_mask"].sum().item() == 5
    torch.testing.assert_close(batch["teacher_logits"], torch.tensor([[0.5, -0.5], [1.0, 2.0]]))
    assert batch["labels"].tolist() == [1, 0]
