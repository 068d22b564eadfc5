"""Records and reports as they may be published: without places on the machine, and without tokens."""

import re
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..stages.run_folder import StageRecord


_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}|\b(?:api_org|hf_oauth)_[A-Za-z0-9]{8,}")
# an absolute path, or one from home or from where the command was run; not what follows a host in an address
_PATH = re.compile(
    r"(?<![\w:/.~])(?:file://)?(?:[A-Za-z]:[\\/]|~?/|\.{1,2}/)(?:[^\s:'\",;()\\/]+[\\/]+)*([^\s:'\",;()\\/]*)"
)
_WHOLE = re.compile(r"(?:file://)?(?:[A-Za-z]:[\\/]|~?/|\.{1,2}/)[^\n]*")
# what a record says of models: the name, and beside it in `inputs` the revision
_MODELS = ("teacher", "model", "student", "tokenizer")


def hub_id(name: str | None, revision: str | None) -> str | None:
    """A model's name where it is one on the Hub: its revision is then a commit; `None` for a folder of any name."""
    return name.partition("@")[0] if name and str(revision).startswith("commit-") else None


def redacted_record(record: StageRecord) -> StageRecord:
    """The record with folders by their last component, so that nobody's machine is described; Hub ids stay whole.

    Example:

    ```python
    >>> from tkd_hf.hub.redaction import redacted_record
    >>> from tkd_hf.stages.run_folder import StageRecord
    >>> record = StageRecord("distill", {"teacher": "runs/t", "teacher_revision": "files-12"}, {"note": "/home/me/x"})
    >>> redacted_record(record).inputs["teacher"], redacted_record(record).arguments["note"]
    ('t', 'x')

    ```
    """
    inputs, arguments = deepcopy(record.inputs), deepcopy(record.arguments)
    for name in _MODELS:
        for holder in (inputs, arguments):
            if holder.get(name):
                holder[name] = _model(holder[name], inputs.get(f"{name}_revision"))
    before = [asdict(redacted_record(StageRecord(**one))) for one in record.before]
    changed = {"inputs": inputs, "arguments": arguments, "before": before}
    return replace(record, **redact({**asdict(record), **changed}))


def contains_token(text: str) -> bool:
    """Whether a text holds what looks like a token of the Hub."""
    return bool(_TOKEN.search(text))


def redact(value: Any) -> Any:
    """Strings without places and tokens, in whatever they stand.

    Example:

    ```python
    >>> from tkd_hf.hub.redaction import redact
    >>> redact({"a": ["/tmp/runs/x", "read ~/d/train.csv", "https://hf.co/a/b", "org/name", 1]})
    {'a': ['x', 'read train.csv', 'https://hf.co/a/b', 'org/name', 1]}

    ```
    """
    if isinstance(value, dict):
        return {redact(name): redact(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(one) for one in value]
    if not isinstance(value, str):
        return value
    value = _TOKEN.sub("…", value)
    return basename(value) if _WHOLE.fullmatch(value) else _PATH.sub(r"\1", value)


def basename(path: str) -> str:
    """The last component of a path of any system."""
    return PurePosixPath(PureWindowsPath(path).as_posix()).name


def _model(name: str | list[str], revision: str | list[str] | None) -> str | list[str]:
    if isinstance(name, list):
        revisions = revision if isinstance(revision, list) else [revision] * len(name)
        return [_model(one, made) for one, made in zip(name, revisions, strict=True)]
    return name if hub_id(name, revision) else basename(name)
