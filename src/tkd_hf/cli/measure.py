"""The commands that measure models: `evaluate`, `benchmark` and `report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from ..evaluation.tables import benchmark_table, evaluation_tables, summary_table
from . import options as o
from .output import announce, store_and_show, suggest


if TYPE_CHECKING:
    from ..data.arguments import DataArguments


@o.with_optional_data
def evaluate(
    model: Annotated[str, typer.Argument(help="Model: folder or Hub id, or an export in one.")],
    data: "DataArguments | None",
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
    on = f" on {data.task or data.dataset}" if data else ""
    announce(f"evaluating {model}{f' and its teacher {teacher}' if teacher else ''}{on}")
    result = run(model, data, teacher, batch_size, disagreements)
    content = store_and_show(json_file, result.to_dict(), *evaluation_tables(result))
    if max_drop is not None:
        result.check_drop(max_drop)
    return content


@o.with_optional_data
def benchmark(
    models: Annotated[list[str], typer.Argument(help="Models: folders or Hub ids, or exports in them.")],
    data: "DataArguments | None",
    reference: Annotated[str | None, o.option(help="Model to compare with (the first one).")] = None,
    batch_sizes: o.BatchSizes = "1,8,32",
    lengths: o.Lengths = "16,64,128",
    threads: o.Threads = None,
    rounds: o.Rounds = 50,
    patience: Annotated[
        float, o.option(min=0, help="Seconds per model after which no further round starts (10.0).")
    ] = 10.0,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Measure latency, throughput, memory, size and loading time of models, compared with a reference.

    The models take turns within one run, so that load and temperature of the machine affect all of them alike. Real
    texts come from the evaluation split of the data; if no data are named, a few built-in sentences are used. The table
    shows real texts only; --json holds all batch sizes and lengths. Name a model twice to see the noise.
    """
    from ..commands.benchmark import benchmark as run

    sizes = {
        "batch_sizes": o.parse_integers("--batch-sizes", batch_sizes),
        "lengths": o.parse_integers("--lengths", lengths),
    }
    texts = (data.task or data.dataset) if data else "built-in sentences"
    announce(f"benchmarking {', '.join(models)} on {texts}")
    result = run(models, data, reference=reference, threads=threads, rounds=rounds, patience=patience, **sizes)
    content = store_and_show(json_file, result.to_dict(), benchmark_table(result))
    suggest(
        f"tkd-hf evaluate {models[-1]} --teacher {reference or models[0]} {o.data_flags(data) if data else '--task …'}"
    )
    return content


@o.with_optional_data
def report(
    models: Annotated[
        list[str],
        typer.Argument(metavar="RUNS...", help="Models: folders or Hub ids; folders without a model are skipped."),
    ],
    data: "DataArguments | None",
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
    return store_and_show(json_file, result.to_dict(), summary_table(result))
