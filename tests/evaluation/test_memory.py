"""The memory of a model, measured in a process of its own."""

import pytest
from transformers import BertForSequenceClassification

from tkd_hf.errors import InputError
from tkd_hf.evaluation.memory import measure_footprint, peak_megabytes

from ..conftest import build_teacher


def test_a_peak_stays_when_the_memory_is_given_back():
    before = peak_megabytes()
    there = b"1" * int(before * 1e6)
    after = peak_megabytes()
    del there
    assert peak_megabytes() > 0.98 * after  # Linux counts to within some pages
    assert after > 1.3 * before


@pytest.mark.slow
def test_a_bigger_model_takes_more(tmp_path, tokenizer):
    """By its weights, and what this process holds is not counted."""
    ballast = b"1" * 10**9
    found = []
    for name, width in (("small", 32), ("big", 300_000)):
        config = build_teacher().config
        config.intermediate_size = width
        BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        found.append(measure_footprint(str(tmp_path / name), 1, 8))
    small, big = found
    assert small.before_megabytes <= small.peak_megabytes < len(ballast) / 1e6
    assert abs(big.before_megabytes - small.before_megabytes) < 50
    weights = 4 * 2 * 16 * 300_000 * 4 / 1e6  # layers × matrices × hidden × intermediate, in float32
    assert 0.8 * weights < big.peak_megabytes - small.peak_megabytes < 3 * weights
    assert all(one.load_seconds > 0 for one in found)


@pytest.mark.slow
def test_a_process_that_fails_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"x cannot be loaded and run in a process of its own: .*check the name") as e:
        measure_footprint(str(tmp_path / "x"), 1, 8)
    assert "\n" not in str(e.value)
