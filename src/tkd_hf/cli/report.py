"""`tkd-hf report`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .output import announce, show_report, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


def _task_of(values: dict[str, Any]) -> str:
    from ..stages.report import recorded_task

    return recorded_task(values["models"])


@partial(o.with_data, default_task=_task_of)
def report(
    models: Annotated[
        list[str], typer.Argument(metavar="RUNS...", help="Models: folders or Hub ids; other folders are passed over.")
    ],
    data: "DataArguments",
    output_dir: Annotated[Path, typer.Option("--output-dir", help="Folder for the report.")] = Path("report"),
    teacher: Annotated[str | None, typer.Option(help="Teacher. Default: the one that the runs name.")] = None,
    batch_size: o.BatchSize = 128,
    batch_sizes: o.BatchSizes = "1,8,32",
    lengths: o.Lengths = "16,64,128",
    threads: o.Threads = None,
    rounds: o.Rounds = 50,
    disagreements: Annotated[
        bool, typer.Option(help="Write the examples that a model and the teacher answer differently.")
    ] = True,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Write a report of models beside their teacher: quality, fidelity, speed, memory and size, with pictures.

    The task is by default the one that the runs name.
    """
    from ..stages.report import report as run

    sizes = {
        "batch_sizes": o.parse_integers("--batch-sizes", batch_sizes),
        "lengths": o.parse_integers("--lengths", lengths),
    }
    announce(f"reporting on {', '.join(models)} into {output_dir}")
    result = run(models, output_dir, data, teacher, batch_size, disagreements, threads=threads, rounds=rounds, **sizes)
    show_report(result)
    return write_json(json_file, result.to_dict())
