"""The exceptions with a meaning of their own: the input was wrong, a check failed, or a run was stopped."""

import errno


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

    exit_code = 2


class CheckFailed(Exception):
    """What a command was to check does not hold. The commands print the message and exit with code 1."""

    exit_code = 1


class GateFailed(CheckFailed):
    """A model lost more than it was allowed to."""


class CardMismatch(CheckFailed):
    """What is on the Hub is not what its card, or its commit, says."""


class TrainingStopped(Exception):
    """Training was asked to stop and wrote a checkpoint. The commands print the message and exit with code 143."""

    exit_code = 143


# what a full, read-only or forbidden place says, by error number or, from Rust and C++, in words alone
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
_STORAGE_WORDS = ("No space left", "quota exceeded", "File too large", "Read-only file system", "Permission denied",
                  "PytorchStreamWriter failed", "unexpected pos")  # fmt: skip


def storage_error_message(error: BaseException) -> str | None:
    """One line for an error of the disk, at whatever depth it was raised; `None` for any other.

    Example:

    ```python
    >>> import errno, os
    >>> from tkd_hf.errors import storage_error_message
    >>> error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/model.safetensors")
    >>> storage_error_message(error).partition(";")[0]
    "cannot write or read 'runs/x/model.safetensors': No space left on device"

    ```
    """
    while error is not None:
        if getattr(error, "errno", None) in _STORAGE or any(words in str(error) for words in _STORAGE_WORDS):
            place = f" {error.filename!r}" if getattr(error, "filename", None) else ""
            reason = getattr(error, "strerror", None) or first_line(error)
            return (
                f"cannot write or read{place}: {reason}; make room or see to the permissions and repeat the command, "
                "a training with --resume"
            )
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, with the next where it only announces it, for one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
