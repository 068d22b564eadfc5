"""`tkd-hf augment`."""

from typing import TYPE_CHECKING, Annotated

from . import options as o
from .output import announce, show_record, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_data
def augment(
    data: "DataArguments",
    output_dir: o.OutputDir,
    mlm: Annotated[
        str | None, o.option(help="Masked language model that predicts replacements: folder or Hub id.")
    ] = None,
    neighbours: Annotated[
        str | None, o.option(help="Encoder whose nearest word embeddings are replacements, such as the teacher.")
    ] = None,
    shuffle_pairs: Annotated[
        bool, o.option("--shuffle-pairs", help="Pair texts of different examples instead.")
    ] = False,
    copies: Annotated[int, o.option(min=1, help="Copies per example (4).")] = 4,
    probability: Annotated[float, o.option(min=0, max=1, help="Probability of replacing a word (0.4).")] = 0.4,
    candidates: Annotated[int, o.option(min=1, help="Candidates per replaced word (15).")] = 15,
    words_from: Annotated[
        str | None, o.option(help="Texts whose words are the only candidates: file or Hub id (any word).")
    ] = None,
    seed: Annotated[int, o.option(min=0, help="Random seed (42).")] = 42,
    batch_size: Annotated[int, o.option(min=1, help="Examples per batch (32).")] = 32,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Make more texts like those of a task, without labels, for `tkd-hf distill --unlabelled`.

    Choose one of --mlm, --neighbours and --shuffle-pairs.
    """
    from ..commands.augment import augment as run

    announce(f"augmenting {data.task or data.dataset} into {output_dir}")
    record = run(
        data,
        output_dir,
        mlm,
        neighbours,
        shuffle_pairs,
        copies=copies,
        probability=probability,
        candidates=candidates,
        words_from=words_from,
        seed=seed,
        batch_size=batch_size,
        overwrite=overwrite,
        resume=resume,
    )
    show_record(str(output_dir), record.metrics, record.seconds)
    suggest(f"tkd-hf distill TEACHER {o.data_flags(data)} --unlabelled {output_dir} --layers 3 --output-dir …")
    return write_json(json_file, vars(record))
