"""The run folder: whether it may be written to, and the record of what was done in it, `tkd_run.json`."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets import Dataset
from filelock import FileLock, Timeout
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.tasks import GLUE_TASKS, Task
from ..errors import InputError
from ..files import atomic_write, read_json
from ..hardware import describe_hardware, describe_software
from ..processes import is_first_process


logger = logging.getLogger(__name__)

RECORD_NAME = "tkd_run.json"
LOCK_NAME = ".tkd_run.lock"

# of a record of strangers, what the rest of tkd-hf relies on
_TYPES = {
    **{"stage": str, "before": list, "finished": (str, type(None)), "seconds": (int, float, type(None))},
    **dict.fromkeys(("inputs", "arguments", "metrics", "details", "software", "hardware"), dict),
}
_NAMES = {"model", "student", "teacher", "task", "dataset", "config"}


@dataclass
class StageRecord:
    """One stage as it was run: what went in, how, what came out, on what machine.

    Args:
        stage: the stage's name, such as `"distill"`.
        inputs: models by revision and data by fingerprint: what decides the result, with `arguments`.
        arguments: settings of the stage.
        metrics: what was measured; empty until the stage has finished.
        details: what else is to be known of the result, such as what was pruned.
        seconds: wall-clock time of the work; of a resumed stage, of its last part.
        finished: UTC time, ISO 8601; `None` while the stage runs.
        before: the records of the stages that made the model that this one began with, the first one first.
    """

    stage: str
    inputs: dict[str, Any]
    arguments: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    finished: str | None = None
    before: list[dict[str, Any]] = field(default_factory=list)
    software: dict[str, Any] = field(default_factory=describe_software)
    hardware: dict[str, Any] = field(default_factory=describe_hardware)


def read_record(folder: str | Path) -> StageRecord | None:
    """The record of the run in a folder, finished or not; `None` if it holds none.

    Raises:
        InputError: if the record is damaged.
    """
    path = Path(folder, RECORD_NAME)
    if not path.exists():
        return None
    content = read_json(path, hint="--overwrite starts anew")
    try:
        _check_types(content)
        for earlier in content.get("before", []):
            _check_types(earlier)
            StageRecord(**earlier)
        return StageRecord(**content)
    except TypeError as error:
        raise InputError(f"{path} is damaged ({error}); --overwrite starts anew") from None


def _check_types(content: Any) -> None:
    """Whether what is read may be a record: a `TypeError` says what in it is of another kind."""
    if not isinstance(content, dict):
        raise TypeError(f"it holds {type(content).__name__}, not the fields of a record")
    for name, value in content.items():
        if name in _TYPES and not isinstance(value, _TYPES[name]):
            raise TypeError(f"{name} is {value!r}")
    named = {**content.get("inputs", {}), **content.get("arguments", {})}
    for name in _NAMES & set(named):  # of several teachers a list
        if not all(isinstance(one, (str, type(None))) for one in _as_list(named[name])):
            raise TypeError(f"{name} is {named[name]!r}")
    for name, value in content.get("metrics", {}).items():
        if isinstance(value, (str, dict)):
            raise TypeError(f"{name} is {value!r}")


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def write_record(folder: str | Path, record: StageRecord) -> None:
    """Writes a record into a folder; it is there whole or not at all."""
    with atomic_write(Path(folder, RECORD_NAME)) as file:
        file.write_text(json.dumps(vars(record), indent=2) + "\n", encoding="utf-8")


def data_inputs(train: Dataset, evaluation: Dataset, task: Task, unlabelled: Dataset | None = None) -> dict[str, Any]:
    """What a record says of the data of a training stage: the task's name, where it is on the Hub, its splits, and
    fingerprints of its parts.
    """
    found = {"task": task.name, "train": fingerprint(train), "eval": fingerprint(evaluation)}
    if not Path(task.dataset).exists():
        config = task.config or (task.name if task.name in GLUE_TASKS else None)
        found |= {"dataset": task.dataset} | ({"config": config} if config else {})
    found["splits"] = {"train": task.train_split, "eval": task.eval_split}
    return found | ({"unlabelled": fingerprint(unlabelled)} if unlabelled else {})


def previous_stages(model: str | None) -> list[dict[str, Any]]:
    """The records of the stages that made a model, if it is a run folder: for the record of what is made of it."""
    record = read_record(model) if model and Path(model).is_dir() else None
    if record is None or not record.finished:
        return []
    last = asdict(record)
    return [*last.pop("before"), last]


class RunFolder:
    """The output folder of one stage: checked, then started, worked in, and finished with a record.

    Args:
        path: the folder; it need not exist.
        record: the stage about to run. If the folder holds the same stage, finished, `done` is true, and `record` is
            that one.
        overwrite: delete what the folder holds.
        resume: go on with what the folder holds.

    Raises:
        InputError: if the folder holds a run and neither `overwrite` nor `resume` was asked for, if both were, or if
            the run to resume had other inputs or arguments (all of those are named).
    """

    def __init__(self, path: str | Path, record: StageRecord, overwrite: bool = False, resume: bool = False):
        self.path = Path(path)
        self.record = record
        record.before = previous_stages(record.inputs.get("model") or record.arguments.get("student"))
        self._overwrite, self._lock = overwrite, None
        if overwrite and resume:
            raise InputError("overwrite and resume exclude each other; choose one")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; name a folder as output")
        if not any(path.name != LOCK_NAME for path in self.path.glob("*")):
            return
        if overwrite:
            self._check_is_run()
        elif resume:
            self.record = self._resumable(record)
        else:
            raise InputError(f"{self.path} already holds files; add --resume to go on, or --overwrite to start anew")

    @property
    def done(self) -> bool:
        """Whether the stage has already been run to its end."""
        return self.record.finished is not None

    @property
    def checkpoint(self) -> str | None:
        """The last checkpoint to go on from, if there is one.

        The Trainer writes its state last: a checkpoint without it was cut off, and is passed over.
        """
        whole = [file.parent for file in self.path.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
        return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None

    def start(self, since: float | None = None) -> None:
        """Takes the folder over: clears it if that was asked for, and writes the record of a run under way.

        Not before all input has been found good, so that a mistake costs nobody the run that was there.

        Args:
            since: `time.perf_counter()` when the work began, if that was before.

        Raises:
            InputError: if another run is at work in the folder.
        """
        self._take()
        if self._overwrite:
            for path in self.path.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != LOCK_NAME:
                    path.unlink()
        self._started = time.perf_counter() if since is None else since
        self._write(self.path)

    @contextmanager
    def replace_when_done(self) -> Iterator[Path]:
        """Instead of `start` and `finish`, for what cannot be resumed half-way: an empty folder to write to.

        It takes the place of this one, with the record, once all is written; what fails or is killed leaves what was
        there before.

        Raises:
            InputError: if another run is at work in the folder.
        """
        aside = self.path.absolute().with_name(f".{self.path.absolute().name}.partial")
        self._take()
        self._started = time.perf_counter()
        try:
            shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
            aside.mkdir()
            yield aside
            self._close()
            self._write(aside)
            shutil.rmtree(self.path)
            aside.rename(self.path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            self._release()
            if [path.name for path in self.path.glob("*")] in ([], [LOCK_NAME]):
                shutil.rmtree(self.path, ignore_errors=True)

    def finish(self, metrics: dict[str, Any]) -> StageRecord:
        """Closes the record with what was measured, and returns it."""
        self.record.metrics = metrics
        self._close()
        self._write(self.path)
        self._release()
        return self.record

    def _take(self):
        """Keeps other processes out, by a lock that the system frees when this one ends, however it ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not is_first_process():
            return  # the processes of one run are one
        # one lock a folder and process: what failed here before does not stand in the way
        self._lock = FileLock(self.path / LOCK_NAME, is_singleton=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"another run is at work in {self.path}; wait until it has ended, or choose another folder"
            ) from None

    def _release(self):
        if self._lock:
            self._lock.release(force=True)

    def _check_is_run(self):
        """Only a folder that holds a run is deleted: a mistyped path must not cost anyone their files."""
        if not (self.path / RECORD_NAME).exists():
            raise InputError(f"{self.path} holds files but no {RECORD_NAME}, so it is no run; choose another folder")

    def _resumable(self, record: StageRecord) -> StageRecord:
        found = read_record(self.path)
        if found is None:
            raise InputError(f"{self.path} holds no {RECORD_NAME}, so there is no run to resume")
        wanted = json.loads(json.dumps({"stage": record.stage, **record.inputs, **record.arguments}))
        there = {"stage": found.stage, **found.inputs, **found.arguments}
        changed = [name for name in sorted(wanted | there) if wanted.get(name) != there.get(name)]
        if changed:
            differences = ", ".join(f"{name} was {there.get(name)!r}, now {wanted.get(name)!r}" for name in changed)
            raise InputError(f"the run in {self.path} differs: {differences}; --overwrite starts anew")
        if found.finished:
            logger.info("%s is finished already", self.path)
        return found if found.finished else record

    def _close(self):
        self.record.seconds = round(time.perf_counter() - self._started, 1)
        self.record.finished = datetime.now(UTC).isoformat(timespec="seconds")

    def _write(self, folder: Path):
        write_record(folder, self.record)


def fingerprint(examples: Dataset) -> str:
    """A short hash of examples' texts and labels, in order."""
    digest = hashlib.sha256()
    for column in sorted(examples.column_names):
        digest.update(column.encode())
        for value in examples[column]:
            digest.update(repr(value).encode())
            digest.update(b"\0")
    return digest.hexdigest()[:16]
