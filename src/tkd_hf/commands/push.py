"""Push a run folder to the Hub, after checking its files and its card (`tkd-hf push`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cards.generate import card
from ..cards.metadata import read_card
from ..core.errors import InputError
from ..core.options import accepts
from ..hub.folder import CARD, check_folder, publishable_files, publishable_record
from ..hub.push import PushResult, check_repo_id, push_files
from ..records.run_folder import RECORD_NAME
from .evaluate import evaluate
from .options import PushOptions
from .report import recorded_input


@dataclass
class PushPlan:
    """The files that a push would upload.

    Args:
        files: by path in the repository: a local file, or content that differs from the local file.
        card: the content of the card.
    """

    files: dict[str, Path | bytes]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each file in bytes."""
        return {
            path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in self.files.items()
        }


def plan_push(folder: str | Path, repo_id: str, include: Sequence[str] = ()) -> PushPlan:
    """Return the files that a push would upload, without using the network. The card in the folder is updated.

    Args:
        folder: the run folder.
        repo_id: `org/name`.
        include: exports to upload as well: `"onnx"`, `"openvino"`.

    Raises:
        InputError: if the folder cannot be published as it is, or if the Hub would refuse the card.
    """
    check_repo_id(repo_id)
    folder = Path(folder)
    check_folder(folder, include)
    content = write_card(folder, repo_id)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for path in publishable_files(folder, include)
    }
    if RECORD_NAME in files:
        files[RECORD_NAME] = publishable_record(folder)
    return PushPlan(files, content)


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
        InputError: as `plan_push`; if `max_drop` is given without data; or if the Hub refuses the push.
        GateFailed: if the model lost more than `max_drop`.

    Example:

    ```python
    from tkd_hf import DataArguments, push

    result = push("runs/student", "my-org/sst2-3l", max_drop=0.01, data=DataArguments(task="sst2"))
    print(result.commit)
    ```
    """
    folder, max_drop, data = options.folder, options.max_drop, options.data
    planned = plan_push(folder, options.repo_id, options.include)
    if max_drop is not None:
        if data is None:
            raise InputError(
                f"max_drop={max_drop} requires data to evaluate the model and its teacher on: name the task"
            )
        evaluate(str(folder), data, options.teacher or recorded_input([str(folder)], "teacher")).check_drop(max_drop)
    return push_files(
        planned.files,
        options.repo_id,
        private=options.private,
        revision=options.revision,
        tag=options.tag,
        create_pr=options.create_pr,
        message=options.message,
    )
