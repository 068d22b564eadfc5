"""Remove local paths and tokens from records and reports before they are published."""

import re
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from .run_folder import StageRecord


_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}|\b(?:api_org|hf_oauth)_[A-Za-z0-9]{8,}")
# A path inside a text: absolute, or relative to the home or working folder. The lookbehind keeps URLs as they are.
_PATH = re.compile(
    r"(?<![\w:/.~])(?:file://)?(?:[A-Za-z]:[\\/]|~?/|\.{1,2}/)(?:[^\s:'\",;()\\/]+[\\/]+)*([^\s:'\",;()\\/]*)"
)
# A text that is nothing but a path; its folders may contain spaces.
_ONLY_A_PATH = re.compile(r"(?:file://)?(?:[A-Za-z]:[\\/]|~?/|\.{1,2}/)[^\n]*")
# Record fields that name a model. The field `<name>_revision` in `inputs` tells whether the model is on the Hub.
_MODEL_FIELDS = ("teacher", "model", "student", "tokenizer")


def hub_id(name: str | None, revision: str | None) -> str | None:
    """Return a model's Hub id, or `None` if the model is a local folder.

    Args:
        name: the model's name in a run record; `org/name@revision` gives `org/name`.
        revision: the revision that the record stores. It begins with `commit-` for models from the Hub only.
    """
    return name.partition("@")[0] if name and str(revision).startswith("commit-") else None


def redacted_record(record: StageRecord) -> StageRecord:
    """Return a copy of a run record that can be published: no local paths, no tokens.

    A local folder is reduced to its last component. A Hub id stays complete.

    Example:

    ```python
    >>> from tkd_hf.records.redaction import redacted_record
    >>> from tkd_hf.records.run_folder import StageRecord
    >>> record = StageRecord("distill", {"teacher": "runs/t", "teacher_revision": "files-12"}, {"note": "/home/me/x"})
    >>> redacted_record(record).inputs["teacher"], redacted_record(record).arguments["note"]
    ('t', 'x')

    ```
    """
    inputs, arguments = deepcopy(record.inputs), deepcopy(record.arguments)
    for name in _MODEL_FIELDS:
        for fields in (inputs, arguments):
            if fields.get(name):
                fields[name] = _model_names(fields[name], inputs.get(f"{name}_revision"))
    before = [asdict(redacted_record(StageRecord(**stage))) for stage in record.before]
    changes = {"inputs": inputs, "arguments": arguments, "before": before}
    return replace(record, **redact({**asdict(record), **changes}))


def contains_token(text: str) -> bool:
    """Whether a text contains something that looks like a Hub token."""
    return bool(_TOKEN.search(text))


def redact(value: Any) -> Any:
    """Remove local paths and tokens from a string, and from all strings inside dictionaries and lists.

    A path is reduced to its last component, and a token to `…`.

    Example:

    ```python
    >>> from tkd_hf.records.redaction import redact
    >>> redact({"a": ["/tmp/runs/x", "read ~/d/train.csv", "https://hf.co/a/b", "org/name", 1]})
    {'a': ['x', 'read train.csv', 'https://hf.co/a/b', 'org/name', 1]}

    ```
    """
    if isinstance(value, dict):
        return {redact(key): redact(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(entry) for entry in value]
    if not isinstance(value, str):
        return value
    value = _TOKEN.sub("…", value)
    return basename(value) if _ONLY_A_PATH.fullmatch(value) else _PATH.sub(r"\1", value)


def basename(path: str) -> str:
    """Return the last component of a POSIX or Windows path."""
    return PurePosixPath(PureWindowsPath(path).as_posix()).name


def _model_names(names: str | list[str], revision: str | list[str] | None) -> str | list[str]:
    if isinstance(names, str):
        return _model_name(names, revision if isinstance(revision, str) else None)
    revisions = revision if isinstance(revision, list) else [revision] * len(names)
    return [_model_name(*pair) for pair in zip(names, revisions, strict=True)]


def _model_name(name: str, revision: str | None) -> str:
    return name if hub_id(name, revision) else basename(name)
