"""Files that are whole or not there: whoever is killed while writing leaves what was there before."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` once all is written; its folder is made if need be.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from tkd_hf.files import atomic_write
    >>> with TemporaryDirectory() as folder:
    ...     with atomic_write(f"{folder}/new/notes.txt") as file:
    ...         _ = file.write_text("all of it")
    ...     Path(folder, "new", "notes.txt").read_text()
    'all of it'

    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, hint: str) -> Any:
    """The content of a file that tkd-hf or the Trainer wrote; `InputError` with the way out where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); {hint}") from None
