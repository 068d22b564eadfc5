"""`tkd-hf label`."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .output import announce, show, suggest, write_json


def label(
    teacher: Annotated[str, typer.Argument(help="Teacher: folder or Hub id.")],
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
    soft_labels: Annotated[Path | None, typer.Option(help="File to keep them in, instead of the cache.")] = None,
    batch_size: o.BatchSize = 128,
    config: o.Config = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Compute all of them anew.")] = False,
    json_file: o.JsonFile = None,
):
    """Run the teacher once and keep its soft labels, keyed by content; what is there already is not computed again."""
    from ..stages.label import label as run

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
    announce(f"labelling {task or dataset} with {teacher}")
    result = run(teacher, data, path=soft_labels, batch_size=batch_size, overwrite=overwrite)
    show(["soft labels", "examples", "computed"], [[result.path, str(result.examples), str(result.computed)]])
    write_json(json_file, vars(result))
    suggest(f"tkd-hf distill {teacher} {'--task' if task else '--dataset'} {task or dataset} --layers 3 --output-dir …")
