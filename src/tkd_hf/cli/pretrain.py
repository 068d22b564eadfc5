"""`tkd-hf pretrain`."""

from typing import Annotated

import typer

from . import options as o
from .distill import parse_layers
from .output import announce, show_record, suggest, write_json


def pretrain(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help="Text: a Hub id, or a local file or folder (txt, parquet, json, csv).")],
    output_dir: o.OutputDir,
    layers: Annotated[str | None, typer.Option(help="How many layers (4), or which of the teacher's (0,2,5).")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads a layer.")] = None,
    intermediate_size: Annotated[int | None, typer.Option(min=1, help="Width of the feed-forward layers.")] = None,
    hidden_size: Annotated[int | None, typer.Option(min=1, help="Width of an encoder from scratch.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Everywhere in the encoder; 0 trains it without.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Encoder to learn from: folder or Hub id.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or Hub id; by default the teacher's.")] = None,
    objectives: Annotated[str | None, typer.Option(help='Weights: \'{"relations": 1.0, "hard": 1.0}\'.')] = None,
    dataset_config: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of text.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Split, or name of the local file, to train on.")] = None,
    eval_split: Annotated[
        str | None, typer.Option(help="To evaluate on, likewise; by default 1 % is held out.")
    ] = None,
    max_length: Annotated[int, typer.Option(min=4, help="Tokens of a sequence.")] = 128,
    max_sequences: Annotated[int | None, typer.Option(min=2, help="Read no more text than fills so many.")] = None,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Pre-train an encoder on raw text. Any field of PretrainingArguments can be set, such as --max-steps 10000."""
    from ..data.corpus import CorpusArguments
    from ..stages.pretrain import EncoderArguments, PretrainingArguments
    from ..stages.pretrain import pretrain as run

    args = o.training_arguments(
        PretrainingArguments, context, output_dir, seed=seed, teacher=teacher, objectives=objectives
    )
    corpus = CorpusArguments(dataset, dataset_config, text_column, train_split, eval_split, max_length, max_sequences)
    encoder = EncoderArguments(parse_layers(layers), heads, intermediate_size, hidden_size, dropout)
    announce(f"pre-training on {dataset}{f' with the teacher {teacher}' if teacher else ''} into {output_dir}")
    record = run(corpus, args, encoder, tokenizer, overwrite, resume)
    show_record(str(output_dir), record.metrics, record.seconds)
    suggest(f"tkd-hf finetune {output_dir} --task sst2 --output-dir …")
    return write_json(json_file, vars(record))
