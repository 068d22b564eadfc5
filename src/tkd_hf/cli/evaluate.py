"""`tkd-hf evaluate`."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import announce, show_evaluation, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_data
def evaluate(
    model: Annotated[str, typer.Argument(help="Model: folder or Hub id.")],
    data: "DataArguments",
    teacher: Annotated[str | None, typer.Option(help="Teacher to compare with: folder or Hub id.")] = None,
    batch_size: o.BatchSize = 128,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Measure a model, and its teacher beside it."""
    from ..stages.evaluate import evaluate as run

    announce(f"evaluating {model}{f' beside {teacher}' if teacher else ''} on {data.task or data.dataset}")
    result = run(model, data, teacher, batch_size)
    show_evaluation(result)
    return write_json(json_file, result.to_dict())
