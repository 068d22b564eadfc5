"""What the records of runs tell later commands: the teacher, the task, and the data."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..core.errors import InputError
from ..data.arguments import DataArguments
from ..data.loading import load_split
from ..data.tasks import Task
from .inputs import recorded_data_arguments
from .run_folder import RECORD_NAME, read_record


logger = logging.getLogger(__name__)


def recorded_data(runs: str | Path | Sequence[str]) -> DataArguments:
    """Return the data that runs were trained or measured on, so that a later command needs no options for them.

    Runs that agree on the data may differ in the split that they trained on and in `max_length`; the longest counts.
    A run without a record is ignored.

    Args:
        runs: folder of a run, or several; Hub ids are ignored.

    Raises:
        InputError: if the records name no data, several, or local data that is gone; the message says what to name.

    Example:

    ```python
    from tkd_hf import evaluate
    from tkd_hf.records.recorded import recorded_data

    result = evaluate("runs/student", recorded_data("runs/student"), teacher="runs/teacher")
    ```
    """
    names = [str(runs)] if isinstance(runs, (str, Path)) else [str(run) for run in runs]
    data = _common_data(names)
    for path in (data.dataset, data.data_dir):
        if path and Path(path).is_absolute() and not Path(path).exists():
            raise InputError(f"the data of the runs, {path}, is gone; name the data with --task or --dataset")
    return data


def recorded_evaluation(
    runs: str | Path | Sequence[str], fallback_label_names: tuple[str, ...] = ()
) -> tuple[DataArguments, Dataset, Task] | None:
    """Return the data that runs were trained on, with the evaluation split and the task, for measuring if possible.

    Args:
        runs: as in `recorded_data`.
        fallback_label_names: as in `load_split`.

    Returns:
        `None` if the records name no data, or if the split cannot be loaded or has no labels; the log says why.
    """
    try:
        data = recorded_data(runs)
        examples, task = load_split(data, "eval", fallback_label_names)
    except InputError as error:
        logger.info("measuring without the data of the run: %s", error)
        return None
    return (data, examples, task) if "label" in examples.column_names else None


def recorded_input(runs: Sequence[str], name: str) -> str:
    """Return an input, such as the teacher or the task, on which the records of all runs agree.

    If the last stage of a run has no such input (quantization has no teacher), the latest earlier stage that has it
    counts. If the input is a list, as with several teachers, its first entry is returned.

    Args:
        runs: folders of runs; those without a record are ignored.
        name: the field in the records' `inputs`: `"teacher"` or `"task"`.

    Raises:
        InputError: if the records contain several values or none.
    """
    values = set()
    for run in runs:
        recorded = [inputs[name] for inputs, _ in _stages(run) if name in inputs]
        values |= {json.dumps(value) for value in recorded[:1]}
    if len(values) != 1:
        problem = f"name several {name}s: {', '.join(sorted(values))}" if values else f"name no {name}"
        raise InputError(f"the records of the runs ({RECORD_NAME}) {problem}; choose one with --{name}")
    value = json.loads(values.pop())
    return value if isinstance(value, str) else value[0]


def _common_data(runs: list[str]) -> DataArguments:
    """Return the data on which the records of runs agree."""
    sources: dict[str, DataArguments] = {}
    unnamed: set[str] = set()
    for run in runs:
        stages = [(inputs, arguments) for inputs, arguments in _stages(run) if "task" in inputs or "data" in inputs]
        if not stages:
            continue
        data = recorded_data_arguments(*stages[0])
        if data is None:
            unnamed.add(str(stages[0][0].get("task")))
            continue
        source = repr({**vars(data), "max_length": None, "train_split": None})
        if source not in sources or sources[source].max_length < data.max_length:
            sources[source] = data
    if unnamed:
        raise InputError(
            f"the runs were trained on {', '.join(map(repr, sorted(unnamed)))}, and their records ({RECORD_NAME}) do "
            "not tell where that is; name the data with --dataset and its columns"
        )
    if len(sources) != 1:
        named = [str(data.task or data.dataset) for data in sources.values()]
        problem = f"name several: {', '.join(named)}" if named else "name none"
        raise InputError(f"name the data with --task or --dataset: the records of {', '.join(runs)} {problem}")
    return next(iter(sources.values()))


def _stages(run: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return inputs and arguments of a run's stages, the latest first; empty if it has no record."""
    record = read_record(run) if Path(run).is_dir() else None
    if record is None:
        return []
    earlier = [(stage["inputs"], stage["arguments"]) for stage in reversed(record.before)]
    return [(record.inputs, record.arguments), *earlier]
