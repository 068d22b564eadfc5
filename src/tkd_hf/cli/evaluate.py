"""`tkd-hf evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import options as o
from .output import announce, show_evaluation, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_data
def evaluate(
    model: Annotated[str, typer.Argument(help="Model: folder or Hub id, or an export within one.")],
    data: "DataArguments",
    teacher: Annotated[str | None, typer.Option(help="Teacher to compare with: folder or Hub id.")] = None,
    batch_size: o.BatchSize = 128,
    max_drop: o.MaxDrop = None,
    disagreements: Annotated[
        Path | None, typer.Option(help="File (JSON lines) for the examples that model and teacher answer differently.")
    ] = None,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Measure a model, and its teacher beside it: metrics with 95 % intervals, fidelity, calibration."""
    from ..stages.evaluate import evaluate as run

    if max_drop is not None and not teacher:
        raise InputError(f"--max-drop {max_drop} is how far below its teacher the model may be: add --teacher")
    announce(f"evaluating {model}{f' beside {teacher}' if teacher else ''} on {data.task or data.dataset}")
    result = run(model, data, teacher, batch_size, disagreements)
    show_evaluation(result)
    content = write_json(json_file, result.to_dict())
    if max_drop is not None:
        result.check_drop(max_drop)
    return content
