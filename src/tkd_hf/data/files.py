"""Read local files. A path is taken literally, and rows are cached by the content of their file.

`load_dataset` takes paths as patterns (`data[1]` names the folder `data1`), and its cache knows a file by its path and
its time of change, which a copy may keep. Here the builders of `datasets` are given one file with the hash of its
content.
"""

import difflib
import functools
import hashlib
import re
from pathlib import Path

from datasets import Dataset, ReadInstruction
from datasets.builder import DatasetBuilder
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.text.text import Text

from ..core.errors import InputError, first_line
from .delimited import SEPARATORS, read_delimited


BUILDERS: dict[str, type[DatasetBuilder]] = {".parquet": Parquet, ".json": Json, ".jsonl": Json, ".txt": Text}
SUFFIXES = (".parquet", *SEPARATORS, ".json", ".jsonl", ".txt")
_COMPRESSION_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
# Endings of files of data, readable or not: a name with one of them is no Hub id.
_FILE_ENDING = re.compile(
    r"\.(parquet|csv|tsv|jsonl?|ndjson|txt|xlsx?|arrow|feather|gz|zip|bz2|xz|zst)$", re.IGNORECASE
)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def read_file(path: Path, name: str, split: str) -> Dataset:
    """Read a local file as the split `name`, with its columns as they are stored.

    Args:
        path: the file: parquet, csv, tsv, json, jsonl or txt.
        name: the name of the split that the file holds.
        split: the split to return: that name, or a slice of it such as `train[:90%]`.

    Raises:
        InputError: for another or a wrong ending, a compressed or damaged file, or another split.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} has the ending {path.suffix!r}; the readable ones are {', '.join(SUFFIXES)}")
    check_not_compressed(path)
    try:
        rows = _read_whole(path)
        rows = _slice(rows, name, split)
    except InputError:
        raise
    except Exception as error:  # `datasets` wraps whatever error the reader raises
        reason = first_line(error.__cause__ or error)
        raise InputError(f"split {split!r} cannot be read from {path}: {reason}") from error
    if path.suffix == ".txt":  # skip blank lines
        rows = rows.filter(lambda lines: [bool(line.strip()) for line in lines], batched=True, input_columns="text")
    return rows


def literal_files(files: list[Path]) -> DataFilesDict:
    """Return local files as the split `train`, for a builder of `datasets`: literal paths, told apart by content."""
    paths = [str(file.absolute()) for file in files]
    return DataFilesDict({"train": DataFilesList(paths, [(content_hash(file),) for file in files])})


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file. A process reads a file once, unless its inode says that it changed meanwhile."""
    status = path.stat()
    return _content_hash(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _content_hash(path: Path, *version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_not_compressed(path: Path) -> None:
    """Refuse compressed files: `datasets` would decompress an archive of any size, whatever its name."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, compression in _COMPRESSION_MAGIC.items():
        if start.startswith(magic):
            raise InputError(
                f"{path} is compressed ({compression}), although its name ends in {path.suffix}; decompress it first"
            )


def split_file(folder: Path, name: str) -> Path:
    """Return the file of a split in a folder: `train.parquet`, `train.csv` and so on.

    Raises:
        InputError: if there is none.
    """
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise InputError(
        f"no split {name!r} in {folder} (found: {', '.join(data_files(folder)) or 'no data files'}); "
        "name another split with --train-split or --eval-split"
    )


def data_files(folder: Path) -> list[str]:
    """Return the names of the readable files in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES) if folder.is_dir() else []


def check_misspelt_path(name: str) -> None:
    """Refuse a path that does not exist at once; asking the Hub for it would take half a minute.

    Args:
        name: the data set, which is no existing path. It may be a Hub id if it has the form of one, has no ending of a
            file, and does not begin with the name of an existing folder.

    Raises:
        InputError: naming similar files.

    Example:

    ```python
    >>> from tkd_hf.data.files import check_misspelt_path
    >>> check_misspelt_path("org/reviews")
    >>> check_misspelt_path("reviews/*.csv")
    Traceback (most recent call last):
    tkd_hf.core.errors.InputError: there is no file or folder 'reviews/*.csv' (paths are literal, not patterns)

    ```
    """
    path = Path(name).expanduser()
    inside_a_folder = len(path.parts) > 1 and Path(path.parts[0]).is_dir()
    if _HUB_ID.fullmatch(name) and not name.startswith(".") and not _FILE_ENDING.search(name) and not inside_a_folder:
        return
    siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    similar = difflib.get_close_matches(path.name, siblings, n=3)
    hint = f"; similar: {', '.join(str(path.parent / file) for file in similar)}" if similar else ""
    literal = " (paths are literal, not patterns)" if set(name) & set("*?[]{}") else ""
    raise InputError(f"there is no file or folder {name!r}{literal}{hint}")


def _read_whole(path: Path) -> Dataset:
    if path.suffix in SEPARATORS:
        return read_delimited(path, content_hash(path))
    builder = BUILDERS[path.suffix](data_files=literal_files([path]))
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")
    assert isinstance(rows, Dataset)
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            lines = sum(not line.isspace() for line in file)
        if lines != len(rows):
            raise InputError(f"{path} has {lines} lines, but {len(rows)} rows were read; write one object per line")
    return rows


def _slice(rows: Dataset, name: str, split: str) -> Dataset:
    """Return the rows of a slice such as `train[:90%]`, or of several, as in `train[:10%]+train[90%:]`."""
    if split == name:
        return rows
    parts = ReadInstruction.from_spec(split).to_absolute({name: len(rows)})
    return rows.select([index for part in parts for index in range(part.from_, part.to)])
