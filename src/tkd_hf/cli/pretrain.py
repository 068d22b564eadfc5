"""`tkd-hf pretrain`."""

from typing import Annotated

import typer

from . import options as o
from .distill import parse_layers
from .output import announce, show_record, suggest, write_json


def pretrain(
    context: typer.Context,
    dataset: Annotated[str, o.option(help="Text: Hub id, or local file or folder of txt, parquet, json or csv.")],
    output_dir: o.OutputDir,
    layers: Annotated[
        str | None,
        o.option(help="Number of layers, or indices of the teacher's, such as 0,2,5 (all of the teacher's, or 12)."),
    ] = None,
    heads: Annotated[
        int | None, o.option(min=1, help="Attention heads per layer (the teacher's, or one per 64 dimensions).")
    ] = None,
    intermediate_size: Annotated[
        int | None,
        o.option(min=1, help="Width of the feed-forward layers (the teacher's, or 4 times the hidden width)."),
    ] = None,
    hidden_size: Annotated[
        int | None, o.option(min=1, help="Hidden width of a randomly initialised encoder (512 without a teacher).")
    ] = None,
    dropout: Annotated[
        float | None, o.option(help="Dropout everywhere in the encoder (the teacher's, or 0.1).")
    ] = None,
    teacher: Annotated[str | None, o.option(help="Encoder to learn from: folder or Hub id (none).")] = None,
    tokenizer: Annotated[str | None, o.option(help="Tokenizer: folder or Hub id (the teacher's).")] = None,
    objectives: Annotated[
        str | None,
        o.option(
            help="Weight of each objective, as JSON ('{\"hard\": 1.0}'; with a teacher "
            '\'{"relations": 1.0, "hard": 1.0}\').'
        ),
    ] = None,
    dataset_config: Annotated[str | None, o.option(help="Configuration of a Hub data set (its default).")] = None,
    text_column: Annotated[str | None, o.option(help="Column of texts (text or sentence).")] = None,
    train_split: Annotated[str | None, o.option(help="Split, or name of the local file, to train on (train).")] = None,
    eval_split: Annotated[
        str | None, o.option(help="Split, or name of the local file, to evaluate on (1 % of the training split).")
    ] = None,
    max_length: Annotated[int, o.option(min=4, help="Tokens per sequence (128).")] = 128,
    max_sequences: Annotated[
        int | None, o.option(min=2, help="Number of sequences after which to stop reading (no limit).")
    ] = None,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Pre-train an encoder on raw text, with or without a teacher encoder.

    Every field of PretrainingArguments is an option as well, such as --max-steps 10000.
    """
    from ..commands.pretrain import EncoderArguments
    from ..commands.pretrain import pretrain as run
    from ..data.corpus import CorpusArguments
    from ..objectives.arguments import PretrainingArguments

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
