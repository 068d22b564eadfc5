"""Labels by name."""

import pytest

from tkd_hf import InputError, TKDConfig
from tkd_hf.labels import label_names, label_order


def test_order_by_name_whatever_the_case():
    assert label_order(["A", "b", "C"], ["c", "a", "B"], "teacher", "student") == [2, 0, 1]


@pytest.mark.parametrize("target", [["a", "c"], ["a"], ["a", "b", "b"]])
def test_different_sets_are_both_printed(target):
    with pytest.raises(InputError) as error:
        label_order(["a", "b"], target, "teacher", "data")
    message = str(error.value)
    assert all(
        part in message for part in ("teacher", "data", str(["a", "b"]), str(target), "id2label", "--label-names")
    )


def test_names_that_differ_only_in_case_are_not_guessed_at():
    with pytest.raises(InputError):
        label_order(["a", "A"], ["a", "A"], "teacher", "student")


def test_names_in_the_order_of_the_logits():
    assert label_names(TKDConfig(id2label={1: "yes", 0: "no"})) == ("no", "yes")
    assert label_names(TKDConfig(num_labels=1)) == ()
