"""`tkd-hf push`: a run folder to the Hub, once its content and its card were found good."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.loading import DataArguments
from ..errors import InputError
from ..hub.folder import CARD, check_folder, publishable_files, publishable_record
from ..hub.metadata import read_card
from ..hub.push import PushResult, check_repo_id, push_files
from .card import card
from .evaluate import evaluate
from .report import recorded_input
from .run_folder import RECORD_NAME


@dataclass
class PushPlan:
    """What would be pushed.

    Args:
        files: all of it, by path in the repository: files, or contents that differ from the folder's.
        card: the rendered card.
    """

    files: dict[str, Path | bytes]
    card: str

    @property
    def sizes(self) -> dict[str, int]:
        """Of each file, in bytes."""
        return {
            path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in self.files.items()
        }


def plan_push(folder: str | Path, repo_id: str, include: Sequence[str] = ()) -> PushPlan:
    """What a push of a run folder would send; the network is left alone. The card is written anew.

    Args:
        folder: the run.
        repo_id: `org/name`.
        include: exports that go along: `"onnx"`, `"openvino"`.

    Raises:
        InputError: for a folder that cannot be published as it is, and a card that the Hub would refuse.
    """
    check_repo_id(repo_id)
    folder = Path(folder)
    check_folder(folder, include)
    content = write_card(folder, repo_id)
    files = {path.relative_to(folder).as_posix(): path for path in publishable_files(folder, include)}
    if RECORD_NAME in files:
        files[RECORD_NAME] = publishable_record(folder)
    return PushPlan(files, content)


def write_card(folder: Path, repo_id: str) -> str:
    """The card of a run for its place on the Hub; what people wrote, and the parent that they named, stay."""
    path = folder / CARD
    parent = read_card(path.read_text(encoding="utf-8"))[0].get("base_model") if path.exists() else None
    return card(folder, repo_id=repo_id, base_model=parent if isinstance(parent, str) else None)


def push(
    folder: str | Path,
    repo_id: str,
    include: Sequence[str] = (),
    max_drop: float | None = None,
    data: DataArguments | None = None,
    teacher: str | None = None,
    **options,
) -> PushResult:
    """Pushes a run folder, as one commit or none.

    Args:
        folder, repo_id, include: as of `plan_push`.
        max_drop: how far below its teacher the model may be: both are evaluated first.
        data: what to evaluate on.
        teacher: by default the one that the run's record names.
        options: of `tkd_hf.hub.push.push_files`.

    Raises:
        InputError: for what `plan_push` refuses, and if the Hub refuses.
        GateFailed: if the model lost more.
    """
    planned = plan_push(folder, repo_id, include)
    if max_drop is not None:
        if data is None:
            raise InputError(f"max_drop={max_drop} needs data to measure model and teacher on: name the task")
        evaluate(str(folder), data, teacher or recorded_input([str(folder)], "teacher")).check_drop(max_drop)
    return push_files(planned.files, repo_id, **options)
