"""Compare models with their teacher in a report of tables and plots (`tkd-hf report`)."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from ..cards import figures
from ..cards.markdown import report_markdown
from ..core.errors import InputError
from ..core.files import atomic_write, read_json
from ..core.names import short_names
from ..core.options import accepts
from ..data.arguments import DataArguments
from ..data.tasks import TASKS
from ..evaluation.results import REPORT_JSON, REPORT_MARKDOWN, Report
from ..inference.runners import find_export
from ..records.run_folder import RECORD_NAME, read_record
from .benchmark import benchmark
from .evaluate import evaluate
from .options import ReportOptions


logger = logging.getLogger(__name__)


@accepts(ReportOptions)
def report(options: ReportOptions) -> Report:
    """Evaluate and time models next to their teacher, and write `report.md`, `report.json` and plots.

    Returns:
        The measurements.

    Raises:
        InputError: as `evaluate` and `benchmark`; if there are no models; or if the run records name several teachers
            or none, or no GLUE task if `data` is left out.

    Example:

    ```python
    from tkd_hf import DataArguments, report

    result = report(["runs/student"], "report", DataArguments(task="sst2"), teacher="runs/teacher")
    print(result.names)
    ```
    """
    figures.check_installed()  # before any work is done
    models = [run for run in options.runs if _may_be_model(run)]
    data = options.data or DataArguments(task=recorded_task(options.runs))
    teacher = options.teacher or recorded_input(models, "teacher")
    students = [model for model in models if Path(model).resolve() != Path(teacher).resolve()]
    if not students:
        raise InputError(
            f"no model in {', '.join(options.runs) or 'the list of runs'} except the teacher {teacher}; name a student"
        )
    output_dir = Path(options.output_dir)
    names = short_names(students)
    disagreements_file = output_dir / "disagreements-{model}.jsonl" if options.disagreements else None
    evaluation = evaluate(students, data, teacher, options.batch_size, disagreements_file=disagreements_file)
    logs = {name: _training_log(student) for name, student in zip(names, students, strict=True)}
    disagreements = {name: f"disagreements-{name.replace('/', '-')}.jsonl" for name in names if options.disagreements}
    result = Report(
        names=["teacher", *names],
        evaluation=evaluation,
        benchmark=benchmark(
            [teacher, *students],
            data,
            options.batch_sizes,
            options.lengths,
            options.reference,
            threads=options.threads,
            rounds=options.rounds,
            patience=options.patience,
            seed=options.seed,
        ),
        logs={name: log for name, log in logs.items() if log},
        disagreements=disagreements,
    )
    figures.draw(result, output_dir / "pictures")
    with atomic_write(output_dir / REPORT_JSON) as file:
        file.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    with atomic_write(output_dir / REPORT_MARKDOWN) as file:
        file.write_text(report_markdown(result), encoding="utf-8")
    return result


def recorded_task(runs: Sequence[str]) -> str:
    """Return the GLUE task that the records of runs name.

    Raises:
        InputError: if they name no task, several tasks, or data that is not a GLUE task.
    """
    task = recorded_input(runs, "task")
    if task not in TASKS:
        raise InputError(f"the runs were trained on {task!r}; name that data with --dataset and its columns")
    return task


def _may_be_model(run: str) -> bool:
    """Whether a name is a Hub id or a folder with a model."""
    folder = Path(run)
    if not folder.is_dir() or (folder / "config.json").exists() or find_export(folder):
        return True
    logger.info("%s contains no model and is skipped", run)
    return False


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
        record = read_record(run)
        if record is None:
            continue
        newest_first = [record.inputs, *(earlier["inputs"] for earlier in reversed(record.before))]
        recorded = [inputs[name] for inputs in newest_first if name in inputs]
        values |= {json.dumps(value) for value in recorded[:1]}
    if len(values) != 1:
        problem = f"name several {name}s: {', '.join(sorted(values))}" if values else f"name no {name}"
        raise InputError(f"the records of the runs ({RECORD_NAME}) {problem}; choose one with --{name}")
    value = json.loads(values.pop())
    return value if isinstance(value, str) else value[0]


def _training_log(run: str) -> list[dict[str, Any]]:
    path = Path(run, TRAINER_STATE_NAME)
    state = read_json(path, hint="delete it; the report then has no training curves") if path.exists() else {}
    return state.get("log_history", []) if isinstance(state, dict) else []
