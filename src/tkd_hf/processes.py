"""The processes of one run, as `accelerate launch` and torchrun start them."""

import os


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
