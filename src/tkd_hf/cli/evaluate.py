"""`tkd-hf evaluate`."""

from typing import Annotated

import typer

from . import options as o
from .output import announce, show_evaluation, write_json


def evaluate(
    model: Annotated[str, typer.Argument(help="Model: folder or Hub id.")],
    teacher: Annotated[str | None, typer.Option(help="Teacher to compare with: folder or Hub id.")] = None,
    task: o.TaskName = None,
    dataset: o.DatasetName = None,
    data_dir: o.DataDir = None,
    dataset_config: o.DatasetConfig = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    label_names: o.LabelNames = None,
    eval_split: o.EvalSplit = None,
    max_length: o.MaxLength = 128,
    batch_size: o.BatchSize = 128,
    config: o.Config = None,
    json_file: o.JsonFile = None,
):
    """Measure a model, and its teacher beside it."""
    from ..stages.evaluate import evaluate as run

    data = o.data_arguments(
        task, dataset, data_dir, dataset_config, text_column, label_column, label_names, None, eval_split, max_length
    )
    announce(f"evaluating {model}{f' beside {teacher}' if teacher else ''} on {task or dataset}")
    result = run(model, data, teacher, batch_size)
    show_evaluation(result)
    write_json(json_file, result.to_dict())
