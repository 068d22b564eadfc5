"""Labelling in parts: what is saved on the way, and what is in memory."""

import numpy as np
import pytest

from tests.conftest import TEXTS
from tkd_hf import SoftLabels
from tkd_hf.stages import label


def test_an_interrupted_labelling_goes_on_where_it_was(teacher_folder, features, tmp_path, monkeypatch):
    monkeypatch.setattr(label, "EXAMPLES_PER_SAVE", 3)
    compute, sizes = SoftLabels.compute.__func__, []

    def counted(cls, model, tokenizer, rows, *args):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(len(rows))
        return compute(cls, model, tokenizer, rows, *args)

    path = tmp_path / "labels.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(SoftLabels, "compute", classmethod(counted))
        with pytest.raises(KeyboardInterrupt):
            label.complete_soft_labels(path, str(teacher_folder), "r", [features])
    assert sizes == [3, 3]  # no more than that is ever read at once
    assert len(SoftLabels.load(path).keys) == 6

    found, computed = label.complete_soft_labels(path, str(teacher_folder), "r", [features])
    assert computed == len(TEXTS) - 6
    whole, _ = label.complete_soft_labels(tmp_path / "whole.safetensors", str(teacher_folder), "r", [features])
    np.testing.assert_array_equal(found.keys, whole.keys)
    np.testing.assert_allclose(found.logits, whole.logits, atol=1e-5)
