"""`tkd-hf benchmark`."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import announce, show_benchmark, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


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
    show_benchmark(result)
    suggest(
        f"tkd-hf evaluate {models[-1]} --teacher {reference or models[0]} {o.data_flags(data) if data else '--task …'}"
    )
    return write_json(json_file, result.to_dict())
