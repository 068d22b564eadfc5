"""Messages of one line."""

import pytest

from tkd_hf.errors import InputError, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ImportError("\n two \n"), "two"),
        (OSError(), "OSError"),
        (TypeError("Validation error:\n  no number"), "Validation error: no number"),
    ],
)
def test_the_first_line_that_says_something(error, line):
    assert first_line(error) == line


def test_bad_input_is_a_value_error():
    assert issubclass(InputError, ValueError)
