"""Atomic writing of files: an interrupted process leaves the previous file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and move it to `path` at the end.

    If the body of the `with` statement fails, `path` keeps its previous content. Missing folders are created.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from tkd_hf.core.files import atomic_write
    >>> with TemporaryDirectory() as folder:
    ...     with atomic_write(f"{folder}/new/notes.txt") as file:
    ...         _ = file.write_text("complete")
    ...     Path(folder, "new", "notes.txt").read_text()
    'complete'

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
    """Return the content of a JSON file that tkd-hf or the Trainer wrote.

    Args:
        path: the file.
        hint: how the user can replace a damaged file, for the error message.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); {hint}") from None
