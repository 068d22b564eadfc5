"""The folder of one run: checks before writing to it, and its record, `tkd_run.json`."""

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

from ..core.errors import InputError
from ..core.files import atomic_write, read_json
from ..core.hardware import describe_hardware, describe_software
from ..core.processes import is_first_process
from ..data.tasks import Task


logger = logging.getLogger(__name__)

RECORD_NAME = "tkd_run.json"
LOCK_NAME = ".tkd_run.lock"

# Types of a record's fields, checked on reading: the record may have been downloaded with someone else's model.
_TYPES = {
    **{"stage": str, "before": list, "finished": (str, type(None)), "seconds": (int, float, type(None))},
    **dict.fromkeys(("inputs", "arguments", "metrics", "details", "software", "hardware"), dict),
}
_NAME_FIELDS = {"model", "student", "teacher", "task", "dataset", "config"}


@dataclass
class StageRecord:
    """What one stage was given, how it was run, what came out, and on which machine.

    Each run folder holds its record in `tkd_run.json`. Resuming compares it with the new call; reports, cards and
    `tkd-hf push` read from it.

    Args:
        stage: the stage's name, such as `"distill"`.
        inputs: models by revision and data by fingerprint. Together with `arguments` they determine the result.
        arguments: settings of the stage.
        metrics: results on the evaluation split; empty until the stage has finished.
        details: other facts about the result, such as which heads were pruned.
        seconds: wall-clock time of the work; for a resumed stage only that of the last session.
        finished: UTC time in ISO 8601; `None` while the stage runs.
        before: records of the previous stages, which produced the model that this stage started from; oldest first.
        software: versions of Python and the packages.
        hardware: processor, accelerator and number of threads.
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
    """Read the record of a run, whether it has finished or not.

    Returns:
        the record, or `None` if the folder has none.

    Raises:
        InputError: if the record is damaged.
    """
    path = Path(folder, RECORD_NAME)
    if not path.exists():
        return None
    content = read_json(path, hint="--overwrite starts again")
    try:
        _check_types(content)
        for earlier in content.get("before", []):
            _check_types(earlier)
            StageRecord(**earlier)
        return StageRecord(**content)
    except TypeError as error:
        raise InputError(f"{path} is damaged ({error}); --overwrite starts again") from None


def _check_types(content: Any) -> None:
    """Raise a `TypeError` that names the first field whose type no record has."""
    if not isinstance(content, dict):
        raise TypeError(f"it holds {type(content).__name__}, not the fields of a record")
    for name, value in content.items():
        if name in _TYPES and not isinstance(value, _TYPES[name]):
            raise TypeError(f"{name} is {value!r}")
    settings = {**content.get("inputs", {}), **content.get("arguments", {})}
    for name in _NAME_FIELDS & set(settings):
        value = settings[name]
        names = value if isinstance(value, list) else [value]  # several teachers are a list
        if not all(isinstance(item, (str, type(None))) for item in names):
            raise TypeError(f"{name} is {value!r}")
    for name, value in content.get("metrics", {}).items():
        if isinstance(value, (str, dict)):
            raise TypeError(f"{name} is {value!r}")


def write_record(folder: str | Path, record: StageRecord) -> None:
    """Write a record into a folder atomically."""
    with atomic_write(Path(folder, RECORD_NAME)) as file:
        file.write_text(json.dumps(vars(record), indent=2) + "\n", encoding="utf-8")


def data_inputs(train: Dataset, evaluation: Dataset, task: Task, unlabelled: Dataset | None = None) -> dict[str, Any]:
    """Return the entries about the data in a training stage's record.

    They are the task's name, its data set on the Hub (for a local file or folder nothing), its splits, and fingerprints
    of the examples.
    """
    inputs = {"task": task.name, "train": fingerprint(train), "eval": fingerprint(evaluation)}
    if not Path(task.dataset).exists():
        inputs["dataset"] = task.dataset
        if task.config:
            inputs["config"] = task.config
    inputs["splits"] = {"train": task.train_split, "eval": task.eval_split}
    if unlabelled:
        inputs["unlabelled"] = fingerprint(unlabelled)
    return inputs


def previous_stages(model: str | None) -> list[dict[str, Any]]:
    """Return the records of the stages that produced a model, oldest first; empty if it is not a finished run."""
    record = read_record(model) if model and Path(model).is_dir() else None
    if record is None or not record.finished:
        return []
    last = asdict(record)
    return [*last.pop("before"), last]


class RunFolder:
    """The output folder of one stage: check it, start, work in it, and finish with a record.

    Creating a `RunFolder` only checks; nothing is deleted or written before `start` or `replace_when_done`.

    Args:
        path: the folder; it need not exist.
        record: the stage about to run. If `resume` is set and the folder holds the same stage, finished, `done` is true
            and `record` is the stored one.
        overwrite: delete the run in the folder.
        resume: continue the run in the folder.

    Raises:
        InputError: if the folder holds files and neither `overwrite` nor `resume` is set, if both are, or if the run to
            resume had other inputs or arguments (the message names all of them).
    """

    def __init__(self, path: str | Path, record: StageRecord, overwrite: bool = False, resume: bool = False):
        self.path = Path(path)
        self.record = record
        record.before = previous_stages(record.inputs.get("model") or record.arguments.get("student"))
        self._overwrite, self._lock = overwrite, None
        if overwrite and resume:
            raise InputError("overwrite and resume cannot be combined; choose one")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; name a folder for the output")
        if not any(path.name != LOCK_NAME for path in self.path.glob("*")):
            return
        if overwrite:
            self._check_is_run()
        elif resume:
            self.record = self._resumable(record)
        else:
            raise InputError(
                f"{self.path} already holds files; add --resume to continue, or --overwrite to start again"
            )

    @property
    def done(self) -> bool:
        """Whether the stage has already finished."""
        return self.record.finished is not None

    @property
    def checkpoint(self) -> str | None:
        """The latest complete checkpoint, or `None`.

        The Trainer writes its state last, so a checkpoint without that file is incomplete and is skipped.
        """
        complete = [file.parent for file in self.path.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")]
        return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None

    def start(self, since: float | None = None) -> None:
        """Lock the folder, delete the previous run if `overwrite` is set, and write the record of an unfinished run.

        Call it only after all input has been checked, so that a mistake does not delete the previous run.

        Args:
            since: value of `time.perf_counter()` when the work began, if that was earlier.

        Raises:
            InputError: if another run is using the folder.
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
        """Yield an empty temporary folder; rename it to this one, with the record, when the block ends.

        Use it instead of `start` and `finish` for work that cannot be resumed. If the work fails or is killed, this
        folder keeps its previous content.

        Raises:
            InputError: if another run is using the folder.
        """
        temporary = self.path.absolute().with_name(f".{self.path.absolute().name}.partial")
        self._take()
        self._started = time.perf_counter()
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
            temporary.mkdir()
            yield temporary
            self._close()
            self._write(temporary)
            shutil.rmtree(self.path)
            temporary.rename(self.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            self._release()
            if [path.name for path in self.path.glob("*")] in ([], [LOCK_NAME]):
                shutil.rmtree(self.path, ignore_errors=True)

    def finish(self, metrics: dict[str, Any]) -> StageRecord:
        """Store the metrics and the time in the record, write it, and return it."""
        self.record.metrics = metrics
        self._close()
        self._write(self.path)
        self._release()
        return self.record

    def _take(self):
        """Lock the folder. The operating system frees the lock when this process ends, even if it is killed."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not is_first_process():
            return  # the first process locks for the whole run
        # A singleton per folder and process: a run that failed earlier in this process does not block the next one.
        self._lock = FileLock(self.path / LOCK_NAME, is_singleton=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"another run is using {self.path}; wait until it has ended, or choose another folder"
            ) from None

    def _release(self):
        if self._lock:
            self._lock.release(force=True)

    def _check_is_run(self):
        """Refuse to delete a folder that holds no run: a mistyped path must not delete somebody's files."""
        if not (self.path / RECORD_NAME).exists():
            raise InputError(f"{self.path} holds files but no {RECORD_NAME}, so it is not a run; choose another folder")

    def _resumable(self, record: StageRecord) -> StageRecord:
        """Return the stored record if it has finished, else the new one; refuse a run with other settings."""
        stored = read_record(self.path)
        if stored is None:
            raise InputError(f"{self.path} holds no {RECORD_NAME}, so it is not a run to resume; choose another folder")
        new = json.loads(json.dumps({"stage": record.stage, **record.inputs, **record.arguments}))
        old = {"stage": stored.stage, **stored.inputs, **stored.arguments}
        changed = [name for name in sorted(new | old) if new.get(name) != old.get(name)]
        if changed:
            differences = ", ".join(f"{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in changed)
            raise InputError(f"the run in {self.path} differs: {differences}; --overwrite starts again")
        if not stored.finished:
            return record
        logger.info("%s is already finished", self.path)
        return stored

    def _close(self):
        self.record.seconds = round(time.perf_counter() - self._started, 1)
        self.record.finished = datetime.now(UTC).isoformat(timespec="seconds")

    def _write(self, folder: Path):
        write_record(folder, self.record)


def fingerprint(examples: Dataset) -> str:
    """Return a short hash of the examples' columns and values, in order."""
    digest = hashlib.sha256()
    for column in sorted(examples.column_names):
        digest.update(column.encode())
        for value in examples[column]:
            digest.update(repr(value).encode())
            digest.update(b"\0")
    return digest.hexdigest()[:16]


def training_arguments(args: Any) -> dict[str, Any]:
    """Return the training arguments that determine the result, for the run's record."""
    names = (
        "learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps warmup_steps "
        "weight_decay lr_scheduler_type optim seed bf16 fp16 objectives final_objectives temperature final_temperature "
        "divergence confidence_weighting top_k layer_map relation_heads"
    ).split()
    values = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    for name in ("learning_rate num_train_epochs warmup_steps weight_decay temperature final_temperature").split():
        if name in values:
            values[name] = float(values[name])  # a recipe may say 2 and a flag 2.0: the run is the same
    return {name: value if isinstance(value, dict) else str(value) for name, value in values.items()}
