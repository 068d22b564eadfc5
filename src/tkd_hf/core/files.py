"""Files and folders that survive what happens to a process: atomic writing, locks, and the exchange of a folder."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import InputError


EXCHANGE_PREFIX = ".tkd_run."  # of subfolders that an exchange makes, and of the lock's file


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


def file_state(path: str | Path) -> tuple[int, ...]:
    """Return what changes with each write to a file; an empty tuple if it does not exist."""
    if not Path(path).exists():
        return ()
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def overlapping(output: str | Path, read: str | Path) -> bool:
    """Return whether a path is an input itself, or a folder that holds it; links and `..` are resolved.

    An output inside an input is fine: exports are written into the folder of their model.

    Example:

    ```python
    >>> from tkd_hf.core.files import overlapping
    >>> overlapping("runs/x/../teacher", "runs/teacher"), overlapping("runs", "runs/teacher")
    (True, True)
    >>> overlapping("runs/teacher/onnx", "runs/teacher")
    False

    ```
    """
    return Path(os.path.realpath(read)).is_relative_to(os.path.realpath(output))


def check_output(output: str | Path, reads: Iterable[str | Path | None]) -> None:
    """Refuse an output file or folder that is, or holds, something that the same command reads.

    Raises:
        InputError: in that case; links and relative paths are resolved.
    """
    for name in reads:
        if not name:
            continue
        path = str(name) if os.path.exists(name) else str(name).partition(":")[0]  # texts may name a split
        if os.path.exists(path) and overlapping(output, path):
            if os.path.realpath(output) == os.path.realpath(path):
                raise InputError(f"the output {output} is itself read by this command; name another output")
            raise InputError(f"the output {output} holds {path}, which this command reads; name another output")


@contextmanager
def locked(path: Path, timeout: float, message: str) -> Iterator[None]:
    """Hold a lock between processes. The operating system frees it when the process ends, even if it is killed.

    Args:
        path: the lock's file, which is created and stays.
        timeout: seconds to wait for the lock; -1 waits without a limit.
        message: the error message if another process holds the lock for longer.

    Raises:
        InputError: if the lock cannot be had in time.
    """
    # A singleton per path and process: the same process may take the lock again.
    lock = FileLock(path, is_singleton=True)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise InputError(message) from None
    try:
        yield
    finally:
        lock.release()


class FolderExchange:
    """Replace what is in a folder so that a process that is killed at any moment loses neither the old nor the new.

    All steps are renames inside the folder. The folder itself may therefore be a mount point, a link or the current
    folder, which cannot be renamed. The names of four subfolders say how far an exchange has come:

    | subfolder | what it means |
    | --- | --- |
    | `.tkd_run.partial` | the new content is being made; the old content is complete |
    | `.tkd_run.ready` | the new content is complete; the old one is being moved out of the way |
    | `.tkd_run.installing` | the old content is out of the way; the new one is being moved into the folder |
    | `.tkd_run.discarding` | the old content is being moved in here |
    | `.tkd_run.discarded` | holds nothing but old content, which is being deleted |

    Every method can be called again after it was interrupted. The caller holds a lock.

    Args:
        folder: the folder.
        is_old: whether an entry of the folder belongs to the old content; all others stay.
    """

    def __init__(self, folder: Path, is_old: Callable[[Path], bool]):
        self.folder, self._is_old = folder, is_old
        names = ("partial", "ready", "installing", "discarding", "discarded")
        self.partial, self.ready, self.installing, self.discarding, self.discarded = (
            folder / f"{EXCHANGE_PREFIX}{name}" for name in names
        )

    @property
    def pending(self) -> bool:
        """Whether complete new content waits to be moved into the folder."""
        return self.ready.is_dir() or self.installing.is_dir()

    def begin(self) -> Path:
        """Return an empty subfolder to make the new content in."""
        for left in (self.partial, self.discarded):
            shutil.rmtree(left, ignore_errors=True)  # left by a process that was killed
        self.partial.mkdir()
        return self.partial

    def abandon(self) -> None:
        """Delete new content that is not complete."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def install(self) -> None:
        """Replace the old content by the new one, which is complete.

        Raises:
            InputError: if a file cannot be moved. The message names the subfolder that keeps the new content.
        """
        os.rename(self.partial, self.ready)
        self.complete()

    def complete(self) -> None:
        """Go on with an exchange from where it was interrupted; errors are those of `install`."""
        result = self.ready
        try:
            if self.ready.is_dir():
                self.discard({path.name for path in self.ready.iterdir()})
                self.forget_discarded()
                os.rename(self.ready, self.installing)
            result = self.installing
            if self.installing.is_dir():
                for path in sorted(self.installing.iterdir()):
                    os.replace(path, self.folder / path.name)
                os.rmdir(self.installing)
        except OSError as error:
            raise InputError(
                f"the new result is complete, but cannot be moved into {self.folder} ({error.strerror}: "
                f"{error.filename}); it is kept in {result}: correct this and repeat the command, or use it from there"
            ) from error

    def discard(self, names: Set[str] = frozenset()) -> None:
        """Move the old content, and other entries of these names, out of the way.

        `forget_discarded` deletes it. Until then, calling this again moves what has been added in the meantime.
        """
        self.discarding.mkdir(exist_ok=True)
        for path in sorted(self.folder.iterdir()):
            if not path.name.startswith(EXCHANGE_PREFIX) and (path.name in names or self._is_old(path)):
                _move_or_empty(path, self.discarding)

    def forget_discarded(self) -> None:
        """Delete the content that `discard` moved."""
        if self.discarding.is_dir():
            shutil.rmtree(self.discarded, ignore_errors=True)
            os.rename(self.discarding, self.discarded)
        shutil.rmtree(self.discarded, ignore_errors=True)


def _move_or_empty(path: Path, folder: Path) -> None:
    """Move an entry into a folder; a mount point stays, and its content is deleted."""
    target = folder / path.name
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)  # moved before the process was killed; the entry was made again since
    try:
        os.replace(path, target)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV) or not path.is_dir():
            raise
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
