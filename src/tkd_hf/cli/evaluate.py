"""`tkd-hf evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from . import options as o
from .output import announce, show_evaluation, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_data
def evaluate(
    model: Annotated[str, typer.Argument(help="Model: folder or Hub id, or an export in one.")],
    data: "DataArguments",
    teacher: Annotated[str | None, o.option(help="Teacher to compare with: folder or Hub id (none).")] = None,
    batch_size: o.BatchSize = 128,
    max_drop: o.MaxDrop = None,
    disagreements: Annotated[
        Path | None, o.option(help="File (JSON lines) for examples that model and teacher predict differently (none).")
    ] = None,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Measure a model's metrics with 95 % intervals, calibration, size and latency, and its agreement with a teacher.

    With --max-drop, exit with code 1 if the main metric is further below the teacher's.
    """
    from ..commands.evaluate import evaluate as run

    if max_drop is not None and not teacher:
        raise InputError(f"--max-drop {max_drop} is the largest allowed drop below the teacher: add --teacher")
    announce(f"evaluating {model}{f' and its teacher {teacher}' if teacher else ''} on {data.task or data.dataset}")
    result = run(model, data, teacher, batch_size, disagreements)
    show_evaluation(result)
    content = write_json(json_file, result.to_dict())
    if max_drop is not None:
        result.check_drop(max_drop)
    return content
