"""Predictions over a data set: order, batches, padding and precision."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import profile

from tkd_hf import student_from_teacher
from tkd_hf.data.tokenization import tokenize
from tkd_hf.inference.prediction import _batches, predict_logits
from tkd_hf.inference.runners import PyTorchRunner

from ..conftest import TEXTS, build_tokenizer


def test_logits_are_in_the_order_of_the_data_set(teacher, tokenizer, examples):
    logits = predict_logits(PyTorchRunner(teacher, tokenizer), tokenize(examples, tokenizer), batch_size=3)
    for example_logits, text in zip(logits, TEXTS, strict=True):
        with torch.no_grad():
            expected = teacher(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(example_logits, expected, atol=1e-5)


@given(st.lists(st.integers(1, 60)), st.integers(1, 9), st.integers(0, 100))
def test_short_texts_get_larger_batches_within_the_token_budget(lengths, batch_size, token_budget):
    batches = list(_batches(np.array(lengths, int), batch_size, token_budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    batch_lengths = [[lengths[index] for index in batch] for batch in batches]
    assert [length for batch in batch_lengths for length in batch] == sorted(lengths, reverse=True)
    for batch in batch_lengths:
        assert batch_size <= len(batch) or batch is batch_lengths[-1]
        assert len(batch) * batch[0] <= batch_size * max(lengths)
        assert len(batch) <= batch_size or len(batch) * batch[0] <= token_budget
        another_fits = (len(batch) + 1) * batch[0] <= min(token_budget, batch_size * max(lengths))
        assert not another_fits or batch is batch_lengths[-1]


def test_batches_include_texts_without_tokens():
    assert list(_batches(np.zeros(3, int), 2, 10)) == [[0, 1], [2]]


def test_larger_batches_of_short_texts_give_the_same_logits(teacher, tokenizer, examples):
    features = tokenize(examples, tokenizer)
    runner = PyTorchRunner(teacher, tokenizer, bf16=False)
    expected = predict_logits(runner, features, batch_size=2)
    logits = predict_logits(runner, features, batch_size=2, token_budget=1000)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_token_classifiers_give_logits_of_real_tokens_only(tagger, tokenizer, tagged, side):
    tagger = student_from_teacher(tagger)  # a BERT counts positions from the left edge, padding or not
    logits = predict_logits(
        PyTorchRunner(tagger, build_tokenizer(padding_side=side)), tokenize(tagged, tokenizer), batch_size=3
    )
    for example_logits, text in zip(logits, TEXTS, strict=True):
        with torch.no_grad():
            expected = tagger(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(example_logits, expected, atol=1e-5)


def test_weights_are_cast_to_bfloat16_once_for_any_number_of_batches(teacher, tokenizer, examples):
    features = tokenize(examples, tokenizer)
    shape = list(teacher.get_submodule("bert.encoder.layer.0.intermediate.dense").weight.shape)
    for batch_size in (1, len(features)):
        with profile(record_shapes=True) as profiled:
            predict_logits(PyTorchRunner(teacher, tokenizer, bf16=True), features, batch_size)
        copies = [
            event for event in profiled.events() if event.name == "aten::copy_" and event.input_shapes[0] == shape
        ]
        assert len(copies) == teacher.config.num_hidden_layers
