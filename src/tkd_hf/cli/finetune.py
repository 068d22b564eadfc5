"""`tkd-hf finetune`."""

from typing import Annotated

import typer

from . import options as o
from .output import announce, show_record, suggest, write_json


def finetune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Pretrained model: folder or Hub id.")],
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
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Fine-tune a model into a teacher. Any field of TrainingArguments can be set, such as --num-train-epochs 2."""
    from ..stages.finetune import finetune as run
    from ..training_args import FineTuningArguments

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
    args = o.training_arguments(FineTuningArguments, context, output_dir, seed=seed)
    announce(f"fine-tuning {model} on {task or dataset} into {output_dir}")
    record = run(model, data, args, overwrite=overwrite, resume=resume)
    show_record(str(output_dir), record.metrics, record.seconds)
    write_json(json_file, vars(record))
    suggest(
        f"tkd-hf distill {output_dir} {'--task' if task else '--dataset'} {task or dataset} --layers 3 --output-dir …"
    )
