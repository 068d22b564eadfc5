"""Tokenization, with one tokenizer for student and teacher and with two."""

from tkd_hf.data.collation import DistillationCollator
from tkd_hf.data.tokenization import same_tokenizer, tokenize

from ..conftest import LABELS, TEXTS, WORDS, build_tokenizer


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
