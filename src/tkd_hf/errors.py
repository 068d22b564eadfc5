"""The exceptions with a meaning of their own: the input was wrong, or a model lost too much."""


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


class GateMissed(Exception):
    """A model lost more than it was allowed to. The commands print the message and exit with code 1."""


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
