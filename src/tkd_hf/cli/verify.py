"""`tkd-hf verify`."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .output import announce, format_number, show_table, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


def _task_of(values: dict[str, Any]) -> str:
    from ..stages.verify import claimed_task

    return claimed_task(values["model"])


@partial(o.with_data, default_task=_task_of)
def verify(
    model: Annotated[str, typer.Argument(help="Model on the Hub: org/name, or org/name@v1.")],
    data: "DataArguments",
    tolerance: Annotated[
        float, typer.Option(min=0, help="How far a figure may lie from the card's: other hardware rounds otherwise.")
    ] = 0.002,
    batch_size: o.BatchSize = 128,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the model's own code, where it is not this package's.")
    ] = False,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Verify a model on the Hub: its files' hashes, that it loads anywhere, and the figures of its card.

    It is fetched into a fresh cache. The task is by default the one that the card names. The exit code is 1 if
    the card is false.
    """
    from ..stages.verify import verify as run

    announce(f"verifying {model} on {data.task or data.dataset}")
    found = run(model, data, tolerance, batch_size, trust_remote_code)
    show_table(
        [f"{found.task} {found.split} ({found.examples})", "card", "measured", ""],
        [
            [
                one.metric,
                format_number(one.card),
                format_number(one.measured),
                "not measured" if one.measured is None else "false" if one in found.false else "true",
            ]
            for one in found.figures
        ],
    )
    typer.echo(f"{found.files} files as commit {found.commit[:8]} says; loads {' and '.join(found.loads)}")
    content = write_json(json_file, found.to_dict())
    found.check()
    return content
