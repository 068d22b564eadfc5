"""`tkd-hf distill`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from . import options as o
from .output import announce, show_record, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments
    from ..models.lora import LoraArguments


@o.with_data
@o.with_lora
def distill(
    context: typer.Context,
    teacher: Annotated[str, typer.Argument(help="Teacher: folder or Hub id.")],
    data: "DataArguments",
    lora: "LoraArguments | None",
    output_dir: o.OutputDir,
    layers: Annotated[
        str | None, o.option(help="Number of teacher layers to keep, or their indices, such as 0,2,5 (all).")
    ] = None,
    heads: Annotated[int | None, o.option(min=1, help="Attention heads per layer (the teacher's).")] = None,
    intermediate_size: Annotated[
        int | None, o.option(min=1, help="Width of the feed-forward layers (the teacher's).")
    ] = None,
    student: Annotated[
        str | None, o.option(help="Existing student to start from: folder or Hub id (cut out of the teacher).")
    ] = None,
    dropout: Annotated[float | None, o.option(help="Dropout of a student cut out of the teacher (0).")] = None,
    temperature: o.Temperature = None,
    objectives: o.Objectives = None,
    soft_labels: o.SoftLabels = None,
    live: o.Live = False,
    unlabelled: o.Unlabelled = None,
    extra_teacher: Annotated[
        list[str] | None, o.option("--extra-teacher", help="Further teacher to average logits with; repeatable (none).")
    ] = None,
    teacher_weights: Annotated[
        str | None, o.option(help="Weights of several teachers in order, such as 0.7,0.3 (equal).")
    ] = None,
    quantization_aware: Annotated[
        str | None,
        o.option(
            help="Train for int8: weights, dynamic or dynamic-int4-embeddings for onnx, or static for openvino (off)."
        ),
    ] = None,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Distil a teacher into a smaller student.

    Every field of DistillationTrainingArguments is an option as well, such as --learning-rate 2e-4.
    """
    from ..commands.distill import distill as run
    from ..commands.student import StudentArguments
    from ..objectives.arguments import DistillationTrainingArguments

    shape = StudentArguments(parse_layers(layers), heads, intermediate_size, student, dropout)
    args = o.training_arguments(
        DistillationTrainingArguments,
        context,
        output_dir,
        lora,
        seed=seed,
        temperature=temperature,
        objectives=objectives,
    )
    teachers, weights = [teacher, *(extra_teacher or [])], parse_weights(teacher_weights)
    announce(f"distilling {', '.join(teachers)} on {data.task or data.dataset} into {output_dir}")
    record = run(
        teachers,
        data,
        args,
        shape,
        soft_labels,
        live,
        overwrite=overwrite,
        resume=resume,
        unlabelled=unlabelled or (),
        lora=lora,
        teacher_weights=weights,
        quantization_aware=quantization_aware,
    )
    show_record(str(output_dir), record.metrics, record.seconds)
    suggest(
        o.merge_suggestion(lora, output_dir) or f"tkd-hf evaluate {output_dir} --teacher {teacher} {o.data_flags(data)}"
    )
    return write_json(json_file, vars(record))


def parse_layers(text: str | None) -> int | tuple[int, ...] | None:
    """Parse a number of layers (`3`) or a list of their indices (`0,2,5`)."""
    if text is None:
        return None
    try:
        numbers = tuple(int(number) for number in text.strip("[]").split(","))
    except ValueError:
        raise InputError(
            f"--layers {text!r} is neither a number of layers, such as 3, nor a list of layers, such as 0,2,5"
        ) from None
    return numbers if "," in text else numbers[0]


def parse_weights(text: str | None) -> tuple[float, ...] | None:
    """Parse a list of weights such as `0.7,0.3`."""
    try:
        return None if text is None else tuple(float(weight) for weight in text.strip("[]").split(","))
    except ValueError:
        raise InputError(
            f"--teacher-weights {text!r} must be a list of numbers, one per teacher, such as 0.7,0.3"
        ) from None
