"""The processes of one run, as `accelerate launch` and torchrun start them."""

import os
import sys


def is_first_process() -> bool:
    """Whether this process speaks and writes for all of a run's; known before torch is imported.

    Example:

    ```python
    >>> from tkd_hf.processes import is_first_process
    >>> is_first_process()
    True

    ```
    """
    return os.environ.get("RANK", "0") == "0"


def destroy_process_group() -> None:
    """Leaves the group of processes that accelerate made, if any: the last thing to do before a process ends.

    torch (2.13) does not do it by itself: threads of gloo may still hold tensors when the interpreter is torn down, and
    now and then that ends a finished process with SIGABRT, and so the whole run with an error
    (https://github.com/pytorch/pytorch/pull/179291, closed without a cure).

    Example:

    ```python
    >>> from tkd_hf.processes import destroy_process_group
    >>> destroy_process_group()  # there are none

    ```
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
