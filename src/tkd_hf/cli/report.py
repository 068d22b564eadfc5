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
    from ..commands.report import recorded_task

    return recorded_task(values["models"])


@partial(o.with_data, default_task=_task_of)
def report(
    models: Annotated[
        list[str],
        typer.Argument(metavar="RUNS...", help="Models: folders or Hub ids; folders without a model are skipped."),
    ],
    data: "DataArguments",
    output_dir: Annotated[Path, o.option("--output-dir", help="Folder for the report (report).")] = Path("report"),
    teacher: Annotated[str | None, o.option(help="Teacher: folder or Hub id (the one that the runs name).")] = None,
    batch_size: o.BatchSize = 128,
    batch_sizes: o.BatchSizes = "1,8,32",
    lengths: o.Lengths = "16,64,128",
    threads: o.Threads = None,
    rounds: o.Rounds = 50,
    disagreements: Annotated[
        bool, o.option(help="Write the examples that model and teacher predict differently (yes).")
    ] = True,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Write a report that compares models with their teacher in quality, speed, memory and size, with figures.

    The task is that of the runs unless --task or --dataset is given.
    """
    from ..commands.report import report as run

    sizes = {
        "batch_sizes": o.parse_integers("--batch-sizes", batch_sizes),
        "lengths": o.parse_integers("--lengths", lengths),
    }
    announce(f"writing a report on {', '.join(models)} into {output_dir}")
    result = run(models, output_dir, data, teacher, batch_size, disagreements, threads=threads, rounds=rounds, **sizes)
    show_report(result)
    return write_json(json_file, result.to_dict())
