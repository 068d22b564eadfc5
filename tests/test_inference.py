"""Predictions in the order of the data."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import profile

from tkd_hf import student_from_teacher
from tkd_hf.data.features import tokenize
from tkd_hf.evaluation.runners import PyTorchRunner
from tkd_hf.inference import _batches, predict_logits

from .conftest import TEXTS, build_tokenizer


def test_row_i_is_example_i(teacher, tokenizer, examples):
    logits = predict_logits(PyTorchRunner(teacher, tokenizer), tokenize(examples, tokenizer), batch_size=3)
    for row, text in zip(logits, TEXTS, strict=True):
        with torch.no_grad():
            expected = teacher(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)


@given(st.lists(st.integers(1, 60)), st.integers(1, 9), st.integers(0, 100))
def test_of_short_texts_there_are_more_in_a_batch_and_never_more_tokens_than_of_long_ones(lengths, batch_size, tokens):
    batches = list(_batches(np.array(lengths, int), batch_size, tokens))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    longest = [[lengths[place] for place in batch] for batch in batches]
    assert [length for batch in longest for length in batch] == sorted(lengths, reverse=True)
    for batch in longest:
        assert batch_size <= len(batch) or batch is longest[-1]
        assert len(batch) * batch[0] <= batch_size * max(lengths)
        assert len(batch) <= batch_size or len(batch) * batch[0] <= tokens
        fits = (len(batch) + 1) * batch[0] <= min(tokens, batch_size * max(lengths))
        assert not fits or batch is longest[-1]


def test_texts_without_tokens_are_in_batches_too():
    assert list(_batches(np.zeros(3, int), 2, 10)) == [[0, 1], [2]]


def test_larger_batches_of_short_texts_give_the_same_answers(teacher, tokenizer, examples):
    features = tokenize(examples, tokenizer)
    runner = PyTorchRunner(teacher, tokenizer, bf16=False)
    few = predict_logits(runner, features, batch_size=2)
    np.testing.assert_allclose(predict_logits(runner, features, batch_size=2, tokens=1000), few, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_of_a_token_classifier_all_tokens_and_no_padding(tagger, tokenizer, tagged, side):
    tagger = student_from_teacher(tagger)  # a BERT counts positions from the padding
    logits = predict_logits(
        PyTorchRunner(tagger, build_tokenizer(padding_side=side)), tokenize(tagged, tokenizer), batch_size=3
    )
    for row, text in zip(logits, TEXTS, strict=True):
        with torch.no_grad():
            expected = tagger(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_weights_are_brought_into_bfloat16_once(teacher, tokenizer, examples):
    """However many batches there are."""
    features = tokenize(examples, tokenizer)
    shape = list(teacher.get_submodule("bert.encoder.layer.0.intermediate.dense").weight.shape)
    for batch_size in (1, len(features)):
        with profile(record_shapes=True) as profiled:
            predict_logits(PyTorchRunner(teacher, tokenizer, bf16=True), features, batch_size)
        copies = [
            event for event in profiled.events() if event.name == "aten::copy_" and event.input_shapes[0] == shape
        ]
        assert len(copies) == teacher.config.num_hidden_layers
