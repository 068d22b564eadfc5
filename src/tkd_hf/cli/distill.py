"""`tkd-hf distill`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from . import options as o
from .output import announce, show_record, suggest, write_json


def distill(
    context: typer.Context,
    teacher: Annotated[str, typer.Argument(help="Teacher: folder or Hub id.")],
    output_dir: o.OutputDir,
    task: o.TaskName = None,
    dataset: o.DatasetName = None,
    data_dir: o.DataDir = None,
    dataset_config: o.DatasetConfig = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    label_names: o.LabelNames = None,
    train_split: o.TrainSplit = None,
    eval_split: o.EvalSplit = None,
    max_length: o.MaxLength = 128,
    layers: Annotated[str | None, typer.Option(help="How many of the teacher's layers (3), or which (0,2,5).")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads a layer.")] = None,
    intermediate_size: Annotated[int | None, typer.Option(min=1, help="Width of the feed-forward layers.")] = None,
    student: Annotated[str | None, typer.Option(help="Start from this student: folder or Hub id.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Softens both distributions. Default 2.")] = None,
    objectives: Annotated[str | None, typer.Option(help='Weights: \'{"logits": 0.9, "hard": 0.1}\'.')] = None,
    soft_labels: Annotated[Path | None, typer.Option(help="File of soft labels, instead of the cache.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Run the teacher on each batch, without soft labels.")] = False,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Distil a student. Any field of DistillationTrainingArguments can be set, such as --learning-rate 2e-4."""
    from ..stages.distill import StudentArguments
    from ..stages.distill import distill as run
    from ..training_args import DistillationTrainingArguments

    data = o.data_arguments(
        task,
        dataset,
        data_dir,
        dataset_config,
        text_column,
        label_column,
        label_names,
        train_split,
        eval_split,
        max_length,
    )
    shape = StudentArguments(_layers(layers), heads, intermediate_size, student)
    args = o.training_arguments(
        DistillationTrainingArguments, context, output_dir, seed=seed, temperature=temperature, objectives=objectives
    )
    announce(f"distilling {teacher} on {task or dataset} into {output_dir}")
    record = run(teacher, data, args, shape, soft_labels, live, overwrite, resume)
    show_record(str(output_dir), record.metrics, record.seconds)
    write_json(json_file, vars(record))
    suggest(f"tkd-hf evaluate {output_dir} --teacher {teacher} {'--task' if task else '--dataset'} {task or dataset}")


def _layers(text: str | None) -> int | tuple[int, ...] | None:
    """`3` is how many, `0,2,5` is which."""
    if text is None:
        return None
    try:
        numbers = tuple(int(number) for number in text.strip("[]").split(","))
    except ValueError:
        raise InputError(f"--layers {text!r} is neither a number of layers (3) nor a list of them (0,2,5)") from None
    return numbers if "," in text else numbers[0]
