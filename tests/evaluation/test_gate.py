"""The gate."""

import pytest

from tkd_hf.errors import GateFailed
from tkd_hf.evaluation.gate import check_drop


@pytest.mark.parametrize("value", [0.9, 0.895, 0.95])
def test_passes_what_lost_no_more_than_allowed(value):
    check_drop(0.9, value, 0.005, "accuracy", "the teacher")


def test_says_by_how_much_it_was_missed():
    with pytest.raises(GateFailed) as missed:
        check_drop(0.9, 0.89, 0.005, "accuracy", "the teacher")
    assert str(missed.value) == (
        "the gate was missed by 0.0050: accuracy 0.8900 is 0.0100 below the teacher (0.9000), and max_drop allows 0.005"
    )
