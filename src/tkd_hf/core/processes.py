"""Processes: those of a distributed run, and what happens when a process is asked to stop."""

import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from .errors import StopRequested


# Ctrl-C, a request of the system or of a batch queue, and the end of a terminal. Windows has no SIGHUP.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_SAME_REQUEST_SECONDS = 2.0


def is_first_process() -> bool:
    """Return whether this process is the one that logs and writes files for the run.

    It reads an environment variable, so that it works before torch is imported.

    Example:

    ```python
    >>> from tkd_hf.core.processes import is_first_process
    >>> is_first_process()
    True

    ```
    """
    return os.environ.get("RANK", "0") == "0"


@functools.lru_cache(maxsize=1024)
def log_once(logger: logging.Logger, message: str) -> None:
    """Log a message for the user, unless this process has logged it before; only the first process does.

    Example:

    ```python
    >>> import logging
    >>> from tkd_hf.core.processes import log_once
    >>> log_once(logging.getLogger("tkd_hf"), "3 of 60 texts are longer than 128 tokens")

    ```
    """
    if is_first_process():
        logger.info("%s", message)


def destroy_process_group() -> None:
    """Leave the process group that accelerate created, if there is one. Call this last in a process.

    torch (2.13) does not do so itself. Threads of gloo may then still hold tensors while the interpreter shuts down,
    which sometimes ends a finished process with SIGABRT, and so the whole run with an error
    (https://github.com/pytorch/pytorch/pull/179291, closed without a fix).

    Example:

    ```python
    >>> from tkd_hf.core.processes import destroy_process_group
    >>> destroy_process_group()  # does nothing outside a distributed run

    ```
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Raise `StopRequested` at SIGINT, SIGTERM and SIGHUP, so that files are closed and temporary ones deleted.

    Example:

    ```python
    >>> import os, signal
    >>> from tkd_hf.core.errors import StopRequested
    >>> from tkd_hf.core.processes import stopping_at_once
    >>> try:
    ...     with stopping_at_once():
    ...         os.kill(os.getpid(), signal.SIGTERM)
    ... except StopRequested as request:
    ...     request.exit_code
    143

    ```
    """

    process = os.getpid()

    def stop(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise StopRequested(signum)
        signal.signal(signum, signal.SIG_DFL)  # a child that was forked ends as it would without this context
        os.kill(os.getpid(), signum)

    with _handled_by(stop):
        yield


@contextmanager
def resumable() -> Iterator[None]:
    """Mark a request to stop that comes in this block: the work can go on from what it has stored."""
    try:
        yield
    except StopRequested as request:
        request.resumable = True
        raise


class DelayedStop:
    """Context that remembers the first request to stop, for work that first brings itself into a good state.

    The second request raises `StopRequested` at once. In a distributed run, a process may get one request from the
    terminal and again from its launcher; within two seconds they count as one.

    Attributes:
        signum: the signal that was received; `None` if there was none.
    """

    signum: int | None = None

    def __enter__(self) -> "DelayedStop":
        self._process = os.getpid()
        self._handled = _handled_by(self._request)
        self._handled.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._handled.__exit__(*error)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._process:
            return  # a worker that loads data; Ctrl-C reaches it as well, and the training still needs it
        if self.signum is None:
            self.signum, self._since = signum, now
            if is_first_process():
                with suppress(OSError):  # the terminal may be gone; a logger could be in the middle of a line
                    os.write(2, b"\ntkd-hf: stopping after this step; Ctrl-C again stops at once\n")
        elif os.environ.get("WORLD_SIZE", "1") == "1" or now - self._since > _SAME_REQUEST_SECONDS:
            raise StopRequested(signum)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler for the signals that ask to stop, except those that the process ignores, as under nohup."""
    previous = {}
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
        previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handled = [number for number, before in previous.items() if before not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, previous[number])
