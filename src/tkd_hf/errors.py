"""The one exception that means: the input was wrong, and here is the way out."""


class InputError(ValueError):
    """Bad input found by tkd-hf: the message is one line that names the offending values and the way out.

    The commands print it without a traceback and exit with code 2. In Python it is an ordinary `ValueError`.

    Example:

    ```python
    >>> from tkd_hf.errors import InputError
    >>> str(InputError("unknown task 'sst3'; the tasks are cola, sst2"))
    "unknown task 'sst3'; the tasks are cola, sst2"

    ```
    """


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
