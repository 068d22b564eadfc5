"""`tkd-hf finetune`."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import announce, show_record, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments
    from ..models.lora import LoraArguments


@o.with_data
@o.with_lora
def finetune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Pretrained model, classifier or student: folder or Hub id.")],
    data: "DataArguments",
    lora: "LoraArguments | None",
    output_dir: o.OutputDir,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Fine-tune a model on labelled data: to make a teacher, or to train a student further.

    Every field of TrainingArguments is an option as well, such as --num-train-epochs 2.
    """
    from ..commands.finetune import finetune as run
    from ..objectives.arguments import FineTuningArguments

    args = o.training_arguments(FineTuningArguments, context, output_dir, lora, seed=seed)
    announce(f"fine-tuning {model} on {data.task or data.dataset} into {output_dir}")
    record = run(model, data, args, overwrite=overwrite, resume=resume, lora=lora)
    show_record(str(output_dir), record.metrics, record.seconds)
    suggest(
        o.merge_suggestion(lora, output_dir)
        or f"tkd-hf distill {output_dir} {o.data_flags(data)} --layers 3 --output-dir …"
    )
    return write_json(json_file, vars(record))
