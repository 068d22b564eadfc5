"""`tkd-hf verify`."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .output import announce, format_number, show_table, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


def _task_of(values: dict[str, Any]) -> str:
    from ..commands.verify import claimed_task

    return claimed_task(values["model"])


@partial(o.with_data, default_task=_task_of)
def verify(
    model: Annotated[str, typer.Argument(help="Model on the Hub: org/name or org/name@v1.")],
    data: "DataArguments",
    tolerance: Annotated[
        float, o.option(min=0, help="Largest difference from the card's metrics that passes (0.002).")
    ] = 0.002,
    batch_size: o.BatchSize = 128,
    trust_remote_code: Annotated[
        bool, o.option("--trust-remote-code", help="Run the repository's own code if it is not this package's.")
    ] = False,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Check a model on the Hub: the hashes of its files, whether it loads, and the metrics on its card.

    The model is downloaded into a fresh cache and evaluated again. The task is that of the card unless --task or
    --dataset is given. The exit code is 1 if the card is wrong.
    """
    from ..commands.verify import verify as run

    announce(f"verifying {model} on {data.task or data.dataset}")
    result = run(model, data, tolerance, batch_size, trust_remote_code)
    rows = []
    for metric in result.figures:
        verdict = "wrong" if metric in result.false else "right"
        if metric.measured is None:
            verdict = "not measured"
        rows.append([metric.metric, format_number(metric.card), format_number(metric.measured), verdict])
    show_table([f"{result.task} {result.split} ({result.examples})", "card", "measured", ""], rows)
    commit = result.commit[:8]
    typer.echo(f"{result.files} files match the hashes of commit {commit}; loads {' and '.join(result.loads)}")
    content = write_json(json_file, result.to_dict())
    result.check()
    return content
