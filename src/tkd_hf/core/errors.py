"""Exceptions of tkd-hf: wrong input, a failed check, a request to stop; and the numbers that gates compare."""

import difflib
import errno
import math
import signal
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input. The message is one line with the offending values and a hint how to correct them.

    The commands print the message without a traceback and exit with code 2. In Python it is an ordinary `ValueError`.

    Example:

    ```python
    >>> from tkd_hf.core.errors import InputError
    >>> str(InputError("unknown task 'sst3'; the tasks are cola, sst2"))
    "unknown task 'sst3'; the tasks are cola, sst2"

    ```
    """

    exit_code = 2


class CheckFailed(Exception):
    """A check of a model failed. The commands print the message and exit with code 1."""

    exit_code = 1


class GateFailed(CheckFailed):
    """A model lost more of its quality than the user allowed (`--max-drop`)."""


class CardMismatch(CheckFailed):
    """A model on the Hub differs from what its card or its commit says."""


class TrainingStopped(Exception):
    """Training was asked to stop and wrote a checkpoint.

    The commands print the message and the command that continues, and exit with 128 plus the number of the signal.

    Args:
        message: after which step it stopped.
        signum: the signal (SIGTERM).
    """

    def __init__(self, message: str, signum: int = signal.SIGTERM):
        super().__init__(message)
        self.exit_code = 128 + signum


class StopRequested(BaseException):
    """A command was asked to stop by SIGINT (Ctrl-C), SIGTERM or SIGHUP. What it has stored is complete.

    It is not an `Exception`, so that nothing between the command line and the work takes it for a failure.

    Args:
        signum: the signal.

    Attributes:
        exit_code: 128 plus the number of the signal.
        resumable: whether the work can go on from what it has stored.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum
        self.resumable = False


# Errors of a full, read-only or forbidden disk: their numbers, and messages from Rust and C++, which have no number.
_STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
_STORAGE_MESSAGES = ("No space left", "quota exceeded", "File too large", "Read-only file system", "Permission denied",
                     "PytorchStreamWriter failed", "unexpected pos")  # fmt: skip


def storage_error_message(error: BaseException) -> str | None:
    """Return a one-line message if an error, or an error that caused it, comes from the disk, or else `None`.

    Example:

    ```python
    >>> import errno, os
    >>> from tkd_hf.core.errors import storage_error_message
    >>> error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/model.safetensors")
    >>> storage_error_message(error).partition(";")[0]
    "cannot write or read 'runs/x/model.safetensors': No space left on device"

    ```
    """
    cause: BaseException | None = error
    while cause is not None:
        is_storage_error = getattr(cause, "errno", None) in _STORAGE_ERRNOS
        if is_storage_error or any(message in str(cause) for message in _STORAGE_MESSAGES):
            filename = getattr(cause, "filename", None)
            path = f" {filename!r}" if filename else ""
            reason = getattr(cause, "strerror", None) or first_line(cause)
            return (
                f"cannot write or read{path}: {reason}; free some space or correct the permissions, then repeat the "
                "command (with --resume to continue training)"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the most similar known word, or an empty string if none is similar.

    Example:

    ```python
    >>> from tkd_hf.core.errors import did_you_mean
    >>> did_you_mean("temprature", ["temperature", "top_k"])
    '; did you mean temperature?'

    ```
    """
    similar = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def first_line(error: BaseException) -> str:
    """Return an error's first line that is not empty, joined with the next if it ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def is_at_most(value: float, limit: float) -> bool:
    """Whether a number is at most a limit. Every gate asks this, because NaN passes a comparison that is turned around.

    Args:
        value: the number to judge.
        limit: the largest number that passes; rounding in the last binary digits is tolerated.

    Returns:
        False if the value or the limit is not finite.

    Example:

    ```python
    >>> from tkd_hf.core.errors import is_at_most
    >>> is_at_most(0.90 - 0.895, 0.005), is_at_most(0.01, 0.005), is_at_most(float("nan"), 0.005)
    (True, False, False)

    ```
    """
    return math.isfinite(value) and math.isfinite(limit) and value <= limit + 1e-12


def check_finite(**numbers: float | None) -> None:
    """Check that numbers which set a target or a limit are finite; `None` stands for a number that is not set.

    Raises:
        InputError: naming the number.

    Example:

    ```python
    >>> from tkd_hf.core.errors import check_finite
    >>> check_finite(target_params=float("nan"), target_size=None)
    Traceback (most recent call last):
    tkd_hf.core.errors.InputError: target_params=nan is not a finite number; choose one, such as 0.5

    ```
    """
    for name, value in numbers.items():
        if value is not None and not math.isfinite(value):
            raise InputError(f"{name}={value} is not a finite number; choose one, such as 0.5")
