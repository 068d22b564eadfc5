"""Compare models with their teacher in a report of tables and plots (`tkd-hf report`)."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from ..cards import figures
from ..cards.markdown import report_markdown
from ..core.errors import InputError
from ..core.files import atomic_write, check_output, read_json
from ..core.names import short_names
from ..core.options import accepts
from ..evaluation.results import REPORT_JSON, REPORT_MARKDOWN, Report
from ..inference.runners import find_export
from ..records.recorded import recorded_data, recorded_input
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
            or none, or if `data` is left out and they do not name the data.

    Example:

    ```python
    from tkd_hf import DataArguments, report

    result = report(["runs/student"], "report", DataArguments(task="sst2"), teacher="runs/teacher")
    print(result.names)
    ```
    """
    figures.check_installed()  # before any work is done
    models = [run for run in options.runs if _may_be_model(run)]
    data = options.data or recorded_data(models)
    teacher = options.teacher or recorded_input(models, "teacher")
    students = [model for model in models if Path(model).resolve() != Path(teacher).resolve()]
    if not students:
        raise InputError(
            f"no model in {', '.join(options.runs) or 'the list of runs'} except the teacher {teacher}; name a student"
        )
    output_dir = Path(options.output_dir)
    check_output(output_dir, [teacher, *students, data.dataset, data.data_dir])
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
    with atomic_write(output_dir / REPORT_JSON) as file:  # first, so that no plot can lose the measurements
        file.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    figures.draw(result, output_dir / "pictures")
    with atomic_write(output_dir / REPORT_MARKDOWN) as file:
        file.write_text(report_markdown(result), encoding="utf-8")
    return result


def _may_be_model(run: str) -> bool:
    """Whether a name is a Hub id or a folder with a model."""
    folder = Path(run)
    if not folder.is_dir() or (folder / "config.json").exists() or find_export(folder):
        return True
    logger.info("%s contains no model and is skipped", run)
    return False


def _training_log(run: str) -> list[dict[str, Any]]:
    path = Path(run, TRAINER_STATE_NAME)
    state = read_json(path, hint="delete it; the report then has no training curves") if path.exists() else {}
    return state.get("log_history", []) if isinstance(state, dict) else []
