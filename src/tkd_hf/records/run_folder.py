"""The folder of one run: checks before writing to it, and its record, `tkd_run.json`."""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..core.errors import InputError
from ..core.files import EXCHANGE_PREFIX, FolderExchange, atomic_write, check_output, locked, read_json
from ..core.hardware import describe_hardware, describe_software
from ..core.processes import is_first_process
from .inputs import differences


logger = logging.getLogger(__name__)

RECORD_NAME = "tkd_run.json"
LOCK_NAME = f"{EXCHANGE_PREFIX}lock"

# What the commands and the Trainer write into a run folder. `--overwrite` deletes this, and keeps everything else.
_RUN_FILES = (
    *(RECORD_NAME, "README.md", ".gitignore", "report.md", "report.json", "disagreements*.jsonl", "removed_tokens.txt"),
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "training_args.bin", "trainer_state.json"),
    *("*config.json", "*_tkd.py", "quanto_qmap.json", "model*.onnx", "model*.onnx_data", "openvino_*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.*", "merges.txt"),
    *("*.model", "*_results.json", "train.parquet"),
)
_RUN_FOLDERS = (f"{PREFIX_CHECKPOINT_DIR}-*", "runs", "pictures", "onnx", "openvino", "__pycache__")
# Fields of a record that name what a run reads.
_READ_FIELDS = ("model", "teacher", "student", "tokenizer", "mlm", "neighbours", "words_from")

# Types of a record's fields, checked on reading: the record may have been downloaded with someone else's model.
_TYPES: dict[str, type | tuple[type, ...]] = {
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


def previous_stages(model: str | None) -> list[dict[str, Any]]:
    """Return the records of the stages that produced a model, oldest first; empty if it is not a finished run."""
    record = read_record(model) if model and Path(model).is_dir() else None
    if record is None or not record.finished:
        return []
    last = asdict(record)
    return [*last.pop("before"), last]


class RunFolder:
    """The output folder of one stage: check it, start, work in it, and finish with a record.

    Creating a `RunFolder` only checks; nothing is deleted or written before `start` or `replace_when_done`. There is
    one exception: if a process was killed while it replaced the folder's content, the replacement is completed.

    Args:
        path: the folder; it need not exist.
        record: the stage about to run. If `resume` is set and the folder holds the same stage, finished, `done` is true
            and `record` is the stored one.
        overwrite: delete the run in the folder. Files that no run writes stay.
        resume: continue the run in the folder.
        args: the training arguments, for comparing the record of an earlier version; see `differences`.
        reads: paths that the stage reads, in addition to those in the record.

    Raises:
        InputError: if the folder holds files and neither `overwrite` nor `resume` is set, if both are, if the run to
            resume had other inputs or arguments (the message names all of them), or if the folder is or holds something
            that the stage reads.
    """

    def __init__(
        self,
        path: str | Path,
        record: StageRecord,
        overwrite: bool = False,
        resume: bool = False,
        args: TrainingArguments | None = None,
        reads: Iterable[str | Path | None] = (),
    ):
        self.path = Path(path)
        self.record = record
        record.before = previous_stages(record.inputs.get("model") or record.arguments.get("student"))
        self._overwrite, self._args = overwrite, args
        self._lock: FileLock | None = None
        self._is_new = not self.path.exists()
        if overwrite and resume:
            raise InputError("overwrite and resume cannot be combined; choose one")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; name a folder for the output")
        check_output(self.path, [*_read_by(record), *reads])
        self._exchange = FolderExchange(self.path, _is_of_a_run)
        completed = self._complete_exchange()
        # If the deletion of the previous run was interrupted, what is left of it counts for nothing.
        if self._exchange.discarding.is_dir() or not _entries(self.path):
            return
        if overwrite:
            self._check_is_run()
        elif resume or completed:
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

        Call it only after all input has been checked, so that a mistake does not delete the previous run. Of several
        processes, only the first one does this; the others must wait for it.

        Args:
            since: value of `time.perf_counter()` when the work began, if that was earlier.

        Raises:
            InputError: if another run is using the folder.
        """
        self._started = time.perf_counter() if since is None else since
        if not is_first_process():
            return
        self._take()
        self._exchange.abandon()
        for left in self.path.glob(f".{RECORD_NAME}.*"):
            left.unlink(missing_ok=True)  # by a process that was killed while it wrote the record
        if self._overwrite or self._exchange.discarding.is_dir():
            self._exchange.discard()
            self._report_kept_files()
        self._write(self.path)
        self._exchange.forget_discarded()

    @contextmanager
    def replace_when_done(self) -> Iterator[Path]:
        """Yield an empty temporary folder; move its content and the record into this one when the block ends.

        Use it instead of `start` and `finish` for work that cannot be resumed. If the work fails or is killed, this
        folder keeps its previous content. If the process is killed while the content is replaced, the next `RunFolder`
        on this path completes that.

        Raises:
            InputError: if another run is using the folder, or if the result cannot be moved; it is then kept in a
                subfolder that the message names.
        """
        self._take()
        self._started = time.perf_counter()
        try:
            temporary = self._exchange.begin()
            try:
                yield temporary
                self._close()
                self._write(temporary)
            except BaseException:
                self._exchange.abandon()
                raise
            self._exchange.install()
            self._exchange.forget_discarded()
            self._report_kept_files()
        finally:
            self._release()
            self._remove_if_empty()

    def finish(self, metrics: dict[str, Any]) -> StageRecord:
        """Store the metrics and the time in the record, write it, and return it."""
        self.record.metrics = metrics
        self._close()
        self._write(self.path)
        self._release()
        return self.record

    def _take(self) -> None:
        """Lock the folder. The operating system frees the lock when this process ends, even if it is killed."""
        self.path.resolve().mkdir(parents=True, exist_ok=True)  # the target of a link may be missing
        if not is_first_process():
            return  # the first process locks for the whole run
        # A singleton per folder and process: a run that failed earlier in this process does not block the next one.
        self._lock = FileLock(self.path / LOCK_NAME, is_singleton=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(_in_use(self.path)) from None

    def _release(self) -> None:
        if self._lock:
            self._lock.release(force=True)

    def _remove_if_empty(self) -> None:
        """Remove the folder that `_take` made, if the work left nothing in it."""
        if self._is_new and not _entries(self.path, everything=True):
            with suppress(OSError):
                (self.path / LOCK_NAME).unlink(missing_ok=True)
                self.path.rmdir()

    def _complete_exchange(self) -> bool:
        """Complete a replacement of the folder's content that was interrupted; return whether there was one."""
        if not self._exchange.pending:
            return False
        with locked(self.path / LOCK_NAME, 0, _in_use(self.path)):
            self._exchange.complete()
            self._exchange.forget_discarded()
        logger.info("%s was being replaced when a process was killed; the replacement is complete now", self.path)
        return True

    def _check_is_run(self) -> None:
        """Refuse to delete a folder that holds no run: a mistyped path must not delete somebody's files."""
        if not (self.path / RECORD_NAME).exists():
            raise InputError(f"{self.path} holds files but no {RECORD_NAME}, so it is not a run; choose another folder")

    def _report_kept_files(self) -> None:
        foreign = [path.name for path in _entries(self.path) if not _is_of_a_run(path)]
        if foreign and self._overwrite:
            logger.info("kept in %s, because no run writes such files: %s", self.path, ", ".join(foreign))

    def _resumable(self, record: StageRecord) -> StageRecord:
        """Return the stored record if it has finished, else the new one; refuse a run with other settings."""
        stored = read_record(self.path)
        if stored is None:
            raise InputError(f"{self.path} holds no {RECORD_NAME}, so it is not a run to resume; choose another folder")
        new = {"stage": record.stage, **record.inputs, **record.arguments}
        old = {"stage": stored.stage, **stored.inputs, **stored.arguments}
        if changes := differences(old, new, self._args):
            raise InputError(f"the run in {self.path} differs: {changes}; --overwrite starts again")
        if not stored.finished:
            return record
        logger.info("%s is already finished", self.path)
        return stored

    def _close(self) -> None:
        self.record.seconds = round(time.perf_counter() - self._started, 1)
        self.record.finished = datetime.now(UTC).isoformat(timespec="seconds")

    def _write(self, folder: Path) -> None:
        write_record(folder, self.record)


@contextmanager
def finished_run(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a run folder while its files are read, so that no run changes them.

    A folder without a record, such as a model that was saved by hand, counts as finished.

    Raises:
        InputError: if a run is using the folder, or has not finished.
    """
    folder = Path(folder)
    with (
        suppress(PermissionError) if not os.access(folder, os.W_OK) else locked(folder / LOCK_NAME, 0, _in_use(folder))
    ):
        check_finished(folder)
        yield


def check_finished(folder: str | Path) -> None:
    """Refuse a folder whose run has not finished, or whose content is being replaced.

    Raises:
        InputError: in these cases; the message names the command that completes the folder.
    """
    folder = Path(folder)
    exchange = FolderExchange(folder, _is_of_a_run)
    record = read_record(folder)
    if exchange.pending or exchange.discarding.is_dir() or (record is not None and not record.finished):
        stage = f" {record.stage}" if record else ""
        raise InputError(f"the run{stage} in {folder} has not finished; repeat its command with --resume")


def _read_by(record: StageRecord) -> Iterator[str | None]:
    """Yield the names of models and data in a record, local or not."""
    for fields in (record.inputs, record.arguments):
        for name in _READ_FIELDS:
            value = fields.get(name)
            yield from value if isinstance(value, list) else [value]
    data = record.inputs.get("data") or {}
    yield from (data.get("dataset"), data.get("data_dir"))


def _entries(folder: Path, everything: bool = False) -> list[Path]:
    """Return what is in a folder; without `everything`, the lock and the subfolders of an exchange do not count."""
    if not folder.is_dir():
        return []
    hidden = (LOCK_NAME,) if everything else (EXCHANGE_PREFIX, "lost+found")  # the latter is in each new volume
    return sorted(path for path in folder.iterdir() if not path.name.startswith(hidden))


def _is_of_a_run(path: Path) -> bool:
    """Whether an entry of a run folder was written by a run."""
    is_folder = path.is_dir() and not path.is_symlink()
    if is_folder and (path / RECORD_NAME).exists():
        return True  # an export
    return any(fnmatch(path.name, pattern) for pattern in (_RUN_FOLDERS if is_folder else _RUN_FILES))


def _in_use(folder: Path) -> str:
    return f"another run is using {folder}; wait until it has ended, or choose another folder"
