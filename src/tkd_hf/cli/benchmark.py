"""`tkd-hf benchmark`."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import announce, show_benchmark, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_optional_data
def benchmark(
    models: Annotated[list[str], typer.Argument(help="Models: folders or Hub ids, or exports within them.")],
    data: "DataArguments | None",
    reference: Annotated[str | None, typer.Option(help="Model to compare with; by default the first.")] = None,
    batch_sizes: o.BatchSizes = "1,8,32",
    lengths: o.Lengths = "16,64,128",
    threads: o.Threads = None,
    rounds: o.Rounds = 50,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds a model after which a shape gets no further round.")
    ] = 10.0,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Time models in one run, in turns: latency, throughput, memory, size and loading, beside a reference.

    Real texts are those of the data's evaluation split, or, where no data is named, a few sentences of our own. The
    table shows real texts; --json holds all batch sizes and lengths. Name a model twice to see how much is noise.
    """
    from ..stages.benchmark import benchmark as run

    sizes = {
        "batch_sizes": o.parse_integers("--batch-sizes", batch_sizes),
        "lengths": o.parse_integers("--lengths", lengths),
    }
    texts = (data.task or data.dataset) if data else "sentences of our own"
    announce(f"benchmarking {', '.join(models)} on {texts}")
    result = run(models, data, reference=reference, threads=threads, rounds=rounds, patience=patience, **sizes)
    show_benchmark(result)
    suggest(
        f"tkd-hf evaluate {models[-1]} --teacher {reference or models[0]} {o.data_flags(data) if data else '--task …'}"
    )
    return write_json(json_file, result.to_dict())
