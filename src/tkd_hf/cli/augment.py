"""`tkd-hf augment`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import announce, show, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_data
def augment(
    data: "DataArguments",
    output_file: Annotated[Path, typer.Option("--output-file", help="File for the new texts: parquet, json, jsonl.")],
    mlm: Annotated[
        str | None, typer.Option(help="Masked language model that proposes words: folder or Hub id.")
    ] = None,
    shuffle_pairs: Annotated[bool, typer.Option("--shuffle-pairs", help="Pair texts of different examples.")] = False,
    copies: Annotated[int, typer.Option(min=1, help="Of each example.")] = 4,
    probability: Annotated[float, typer.Option(min=0, max=1, help="Of a word to be replaced.")] = 0.4,
    candidates: Annotated[int, typer.Option(min=1, help="Proposals for each word.")] = 15,
    words_from: Annotated[str | None, typer.Option(help="Propose only words of these texts: file or Hub id.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 42,
    batch_size: o.BatchSize = 32,
    config: o.Config = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    json_file: o.JsonFile = None,
):
    """Make more texts like those of a task, without labels, for `tkd-hf distill --unlabelled`."""
    from ..stages.augment import augment as run

    announce(f"augmenting {data.task or data.dataset} into {output_file}")
    result = run(
        data,
        output_file,
        mlm,
        shuffle_pairs,
        copies,
        probability,
        candidates,
        words_from,
        seed,
        batch_size,
        overwrite,
    )
    show(["augmented", "examples", "new"], [[result.path, str(result.examples), str(result.new)]])
    suggest(f"tkd-hf distill TEACHER {o.data_flags(data)} --unlabelled {output_file} --layers 3 --output-dir …")
    return write_json(json_file, vars(result))
