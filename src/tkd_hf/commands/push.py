"""Push a run folder to the Hub, after checking its files and its card (`tkd-hf push`)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..cards.generate import card, card_from_folder, render_card
from ..cards.metadata import read_card
from ..core.errors import InputError
from ..core.files import atomic_write, read_json
from ..core.options import accepts
from ..hub.folder import CARD, check_folder, publishable_files, publishable_record
from ..hub.push import PushResult, check_repo_id, push_files
from ..hub.snapshot import copy_files
from ..records.recorded import recorded_data, recorded_input
from ..records.run_folder import RECORD_NAME, check_finished, finished_run
from .evaluate import evaluate
from .options import PushOptions


PUSHED = ".tkd_pushed.json"  # in the run folder: the hash of the card that was pushed last, by repository


@dataclass
class PushPlan:
    """The files that a push would upload.

    Args:
        files: by path in the repository: a copy of a file in the run folder, or content that differs from that file.
        card: the content of the card.
        copies: the folder with the copies, which exists as long as the plan.
    """

    files: dict[str, Path | bytes]
    card: str
    copies: TemporaryDirectory[str]

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each file in bytes."""
        return {
            path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in self.files.items()
        }


def plan_push(folder: str | Path, repo_id: str, include: Sequence[str] = ()) -> PushPlan:
    """Return the files that a push would upload, without using the network. The card in the folder is updated.

    The files are copied first and the copies are checked, so a file that changes later is not published unchecked.

    Args:
        folder: the run folder.
        repo_id: `org/name`.
        include: backends whose exports to upload as well, such as `"onnx"`.

    Raises:
        InputError: if the folder cannot be published as it is, if its run has not finished or is running, or if the Hub
            would refuse the card.
    """
    check_repo_id(repo_id)
    folder = Path(folder)
    with finished_run(folder):  # until its files are copied
        for name in include:
            check_finished(folder / name)
        check_folder(folder, include)
        content = write_card(folder, repo_id)
        copies = TemporaryDirectory(prefix="tkd-hf-push-")
        copied = copy_files(folder, publishable_files(folder, include), Path(copies.name))
    check_folder(copies.name, include)
    files: dict[str, Path | bytes] = {path.relative_to(copies.name).as_posix(): path for path in copied}
    if RECORD_NAME in files:
        files[RECORD_NAME] = publishable_record(copies.name)
    return PushPlan(files, content, copies)


def write_card(folder: Path, repo_id: str) -> str:
    """Update the card of a run folder for a repository; text, metadata and base_model that people added stay."""
    path = folder / CARD
    parent = read_card(path.read_text(encoding="utf-8"))[0].get("base_model") if path.exists() else None
    return card(folder, repo_id=repo_id, base_model=parent if isinstance(parent, str) else None)


@accepts(PushOptions)
def push(options: PushOptions) -> PushResult:
    """Push a run folder to the Hub in a single commit; skip the commit if nothing changed.

    With `max_drop`, the model and its teacher are evaluated first, and a model that lost too much is not pushed.

    Raises:
        InputError: as `plan_push`; if `max_drop` is given, and neither the call nor the record names data; if the card
            was edited on the Hub; or if the
            Hub refuses the push.
        GateFailed: if the model lost more than `max_drop`.

    Example:

    ```python
    from tkd_hf import DataArguments, push

    result = push("runs/student", "my-org/sst2-3l", max_drop=0.01, data=DataArguments(task="sst2"))
    print(result.commit)
    ```
    """
    folder, max_drop, data = Path(options.folder), options.max_drop, options.data
    planned = plan_push(folder, options.repo_id, options.include)
    if max_drop is not None:
        data = data or recorded_data(folder)
        evaluate(str(folder), data, options.teacher or recorded_input([str(folder)], "teacher")).check_drop(max_drop)

    def guard(remote_card: bytes) -> None:
        _check_remote_card(remote_card, folder, options.repo_id, planned.card)

    result = push_files(
        planned.files,
        options.repo_id,
        private=options.private,
        revision=options.revision,
        tag=options.tag,
        create_pr=options.create_pr,
        message=options.message,
        guard=guard,
    )
    if not options.create_pr:
        _remember_card(folder, options.repo_id, planned.card)
    return result


def _check_remote_card(remote_card: bytes, folder: Path, repo_id: str, content: str) -> None:
    """Refuse to replace a card that contains text which the new card lacks, unless this folder pushed that text."""
    if hashlib.sha256(remote_card).hexdigest() == _pushed_cards(folder).get(repo_id):
        return
    base = read_card(content)[0].get("base_model")
    described = card_from_folder(folder, repo_id=repo_id, base_model=base if isinstance(base, str) else None)
    if render_card(described, remote_card.decode("utf-8", errors="replace")) != content:
        raise InputError(
            f"the card (README.md) of {repo_id} was edited on the Hub, and this push would drop those changes; take "
            f"them over (hf download {repo_id} README.md --local-dir {folder}) and push again"
        )


def _pushed_cards(folder: Path) -> dict[str, Any]:
    path = folder / PUSHED
    return read_json(path, hint="delete the file") if path.exists() else {}


def _remember_card(folder: Path, repo_id: str, content: str) -> None:
    pushed = _pushed_cards(folder) | {repo_id: hashlib.sha256(content.encode()).hexdigest()}
    with atomic_write(folder / PUSHED) as file:
        file.write_text(json.dumps(pushed, indent=2) + "\n", encoding="utf-8")
