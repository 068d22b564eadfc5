"""`tkd-hf report`: a teacher and what was made of it, side by side, for people."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from ..data.loading import DataArguments
from ..data.tasks import GLUE_TASKS
from ..errors import InputError
from ..files import atomic_write, read_json
from ..model_names import short_names
from .benchmark import Benchmark, benchmark
from .evaluate import Evaluation, evaluate
from .run_folder import RECORD_NAME, read_record


logger = logging.getLogger(__name__)

REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"


@dataclass
class Report:
    """What was measured of each model.

    Args:
        names: what to call the models, the teacher first.
        evaluation: quality and fidelity.
        benchmark: speed and memory.
        logs: by name, the Trainer's log of those that were trained into a folder.
        disagreements: by name, the file of examples that model and teacher answer differently, within the report.
        finished: UTC time, ISO 8601.
    """

    names: list[str]
    evaluation: Evaluation
    benchmark: Benchmark
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    disagreements: dict[str, str] = field(default_factory=dict)
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def report(
    runs: Sequence[str],
    output_dir: str | Path,
    data: DataArguments,
    teacher: str | None = None,
    batch_size: int = 128,
    disagreements: bool = True,
    **benchmark_arguments: Any,
) -> Report:
    """Measures models beside their teacher and writes `report.md`, `report.json` and pictures.

    Args:
        runs: folders or Hub ids of models, exports among them. Folders without a model are passed over, so that
            `runs/*` will do.
        output_dir: where the report goes; what an earlier report wrote there is replaced.
        data: the task, or the data set; `recorded_task` tells which the runs were made with.
        teacher: folder or Hub id; by default the one that the runs' records name.
        batch_size: examples at a time for the metrics.
        disagreements: write the examples that model and teacher answer differently, one file a model; leave it out
            where texts are to stay where they are.
        benchmark_arguments: of `tkd_hf.stages.benchmark.benchmark`.

    Raises:
        InputError: for what `evaluate` and `benchmark` refuse, for no models, and where records differ or are silent
            about teacher or task.
    """
    from ..reporting import figures, tables  # names matplotlib if it is missing, before any work

    found = [run for run in runs if _is_model(run)]
    teacher = teacher or recorded_input(found, "teacher")
    models = [run for run in found if Path(run).resolve() != Path(teacher).resolve()]
    if not models:
        raise InputError(f"no model among {', '.join(runs) or 'nothing'} but the teacher {teacher}; name a student")
    output_dir = Path(output_dir)
    names = short_names(models)
    lines = output_dir / "disagreements-{model}.jsonl" if disagreements else None
    evaluation = evaluate(models, data, teacher, batch_size, disagreements_file=lines)
    found = Report(
        names=["teacher", *names],
        evaluation=evaluation,
        benchmark=benchmark([teacher, *models], data=data, **benchmark_arguments),
        logs={name: log for name, model in zip(names, models, strict=True) if (log := _log(model))},
        disagreements={name: f"disagreements-{name.replace('/', '-')}.jsonl" for name in names if disagreements},
    )
    figures.draw(found, output_dir / "pictures")
    with atomic_write(output_dir / REPORT_JSON) as file:
        file.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    with atomic_write(output_dir / REPORT_MARKDOWN) as file:
        file.write_text(tables.markdown(found), encoding="utf-8")
    return found


def recorded_task(runs: Sequence[str]) -> str:
    """The GLUE task that the records of runs name.

    Raises:
        InputError: if they name none, several, or data that is no GLUE task.
    """
    task = recorded_input(runs, "task")
    if task not in GLUE_TASKS:
        raise InputError(f"the runs were made with the data {task!r}; name it with --dataset and its columns")
    return task


def _is_model(run: str) -> bool:
    """Whether a name may be a model: a folder without one is not."""
    folder = Path(run)
    there = not folder.is_dir() or any((folder / name).exists() for name in ("config.json", "openvino_model.xml"))
    if not there:
        logger.info("%s holds no model, and is passed over", run)
    return there


def recorded_input(runs: Sequence[str], name: str) -> str:
    """What the records of all runs that name a teacher, or a task, agree on.

    A run that names none, as a quantized model's, counts by the last one before it that does.
    """
    records = [record for run in runs if (record := read_record(run))]
    told = [[record.inputs, *(earlier["inputs"] for earlier in reversed(record.before))] for record in records]
    said = {json.dumps(one[name]) for inputs in told for one in [one for one in inputs if name in one][:1]}
    if len(said) != 1:
        what = f"name several: {', '.join(sorted(said))}" if said else "name none"
        raise InputError(f"the records of the runs ({RECORD_NAME}) {what}; say which {name}: --{name}")
    found = json.loads(said.pop())
    return found if isinstance(found, str) else found[0]


def _log(run: str) -> list[dict[str, Any]]:
    path = Path(run, TRAINER_STATE_NAME)
    state = read_json(path, hint="delete it, and there is no curve") if path.exists() else {}
    return state.get("log_history", []) if isinstance(state, dict) else []
