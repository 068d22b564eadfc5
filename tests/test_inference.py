"""Predictions in the order of the data."""

import numpy as np
import torch

from tkd_hf.data.features import tokenize
from tkd_hf.inference import predict_logits

from .conftest import TEXTS


def test_row_i_is_example_i(teacher, tokenizer, examples):
    logits = predict_logits(teacher, tokenizer, tokenize(examples, tokenizer), batch_size=3)
    for row, text in zip(logits, TEXTS, strict=True):
        with torch.no_grad():
            expected = teacher(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)
