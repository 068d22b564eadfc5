"""Copy the files to publish out of a run folder, so that exactly the files that were checked are uploaded."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import InputError
from ..core.files import read_json


# Code and vocabularies contain words such as hf_quantizer; a token has a digit or is longer. Weights can contain such
# bytes by chance, but not the 30 characters that the Hub's tokens have.
_TOKEN_IN_TEXT = re.compile(
    rb"\bhf_(?:(?=[A-Za-z]*[0-9])[A-Za-z0-9]{8,}|[A-Za-z0-9]{16,})|\b(?:api_org|hf_oauth)_[A-Za-z0-9]{8,}"
)
_TOKEN_IN_WEIGHTS = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
_WEIGHTS = {".safetensors", ".onnx", ".onnx_data", ".bin"}
_LOCAL_PATH = re.compile(r"(?:/|~/|\./|\.\./|file://|[A-Za-z]:[\\/]).+")
_PATH_KEY = re.compile(r"path|dir|file|folder|cache|model|tokenizer|base", re.IGNORECASE)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag; there only `refuse_links` looks


def copy_files(folder: Path, files: Iterable[Path], target: Path) -> list[Path]:
    """Copy files of a folder, and follow no link, even if somebody exchanges a file for a link during the copy.

    Args:
        folder: the folder that contains the files.
        files: paths within `folder`.
        target: an existing folder for the copies.

    Returns:
        The paths of the copies.

    Raises:
        InputError: if a file, or a folder on the way to it, is a link.
    """
    copies = []
    for file in files:
        copy = target / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _open_without_links(folder, file) as source, copy.open("wb") as destination:
            shutil.copyfileobj(source, destination)
        copies.append(copy)
    return copies


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Check that no file of these names is a link, whose target would be published instead.

    Raises:
        InputError: if one is.
    """
    for name in names:
        if (folder / name).is_symlink():
            raise _link_error(folder / name)


def _link_error(path: Path) -> InputError:
    return InputError(f"{path} is a link to {os.path.realpath(path)}; copy the file itself there")


def _open_without_links(folder: Path, file: Path) -> BinaryIO:
    """Open a file for reading; each folder below `folder` is opened by itself, so that none can be a link."""
    if os.open not in os.supports_dir_fd:
        refuse_links(folder, [file.relative_to(folder).as_posix()])
        return file.open("rb")
    *parents, name = file.relative_to(folder).parts
    descriptors = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for parent in parents:
            descriptors.append(os.open(parent, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=descriptors[-1]))
        return os.fdopen(os.open(name, os.O_RDONLY | _NO_FOLLOW, dir_fd=descriptors[-1]), "rb")
    except OSError as error:
        links = [path for path in (file, *file.parents) if path != folder and path.is_symlink()]
        if links:
            raise _link_error(links[0]) from None
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def refuse_secrets(files: Iterable[Path]) -> None:
    """Check that no file contains a Hub token, and that no JSON file names a path of this machine.

    Raises:
        InputError: names the file, and for JSON the field.
    """
    for path in files:
        if _contains_token(path):
            raise InputError(
                f"{path.name} contains text that looks like a Hub token; remove it from the file, and revoke the token "
                "(https://huggingface.co/settings/tokens)"
            )
        if path.suffix == ".json" and path.name != "tokenizer.json":
            _refuse_local_paths(path)


def _contains_token(path: Path) -> bool:
    pattern = _TOKEN_IN_WEIGHTS if path.suffix in _WEIGHTS else _TOKEN_IN_TEXT
    return bool(pattern.search(path.read_bytes()))


def _refuse_local_paths(path: Path) -> None:
    for field, value in _strings(read_json(path, hint="save the model again")):
        is_local_base = field == "base_model_name_or_path" and Path(value).exists()
        names_a_path = _PATH_KEY.search(field.rpartition(".")[2]) or os.path.exists(value)
        if is_local_base or (_LOCAL_PATH.fullmatch(value) and names_a_path):
            hint = "remove it from the file"
            if is_local_base:
                hint = f"push that model first and set {field} to its Hub id, or merge the adapter into it"
            raise InputError(f"{path.name} has {field}={value!r}, a path on this machine that others lack; {hint}")


def _strings(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Yield the strings within a JSON value, each with the names of the fields that lead to it."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from _strings(entry, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _strings(entry, f"{field}[{index}]")
    elif isinstance(value, str):
        yield field, value
