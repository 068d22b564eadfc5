"""`tkd-hf augment`."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import announce, show_record, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_data
def augment(
    data: "DataArguments",
    output_dir: o.OutputDir,
    mlm: Annotated[
        str | None, typer.Option(help="Masked language model that proposes words: folder or Hub id.")
    ] = None,
    neighbours: Annotated[
        str | None, typer.Option(help="Encoder whose nearest word embeddings are proposed, the teacher say.")
    ] = None,
    shuffle_pairs: Annotated[bool, typer.Option("--shuffle-pairs", help="Pair texts of different examples.")] = False,
    copies: Annotated[int, typer.Option(min=1, help="Of each example.")] = 4,
    probability: Annotated[float, typer.Option(min=0, max=1, help="Of a word to be replaced.")] = 0.4,
    candidates: Annotated[int, typer.Option(min=1, help="Proposals for each word.")] = 15,
    words_from: Annotated[str | None, typer.Option(help="Propose only words of these texts: file or Hub id.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 42,
    batch_size: o.BatchSize = 32,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Make more texts like those of a task, without labels, for `tkd-hf distill --unlabelled`."""
    from ..stages.augment import augment as run

    sizes = (copies, probability, candidates, words_from, seed, batch_size)
    announce(f"augmenting {data.task or data.dataset} into {output_dir}")
    record = run(data, output_dir, mlm, neighbours, shuffle_pairs, *sizes, overwrite, resume)
    show_record(str(output_dir), record.metrics, record.seconds)
    suggest(f"tkd-hf distill TEACHER {o.data_flags(data)} --unlabelled {output_dir} --layers 3 --output-dir …")
    return write_json(json_file, vars(record))
