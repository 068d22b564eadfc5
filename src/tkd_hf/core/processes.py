"""Processes of a distributed run, as `accelerate launch` and torchrun start them."""

import os
import sys


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
