"""`tkd-hf distill`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import options as o
from .output import announce, show_record, suggest, write_json


if TYPE_CHECKING:
    from ..adapters import LoraArguments
    from ..data.loading import DataArguments


@o.with_data
@o.with_lora
def distill(
    context: typer.Context,
    teacher: Annotated[str, typer.Argument(help="Teacher: folder or Hub id.")],
    data: "DataArguments",
    lora: "LoraArguments | None",
    output_dir: o.OutputDir,
    layers: Annotated[str | None, typer.Option(help="How many of the teacher's layers (3), or which (0,2,5).")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads a layer.")] = None,
    intermediate_size: Annotated[int | None, typer.Option(min=1, help="Width of the feed-forward layers.")] = None,
    student: Annotated[str | None, typer.Option(help="Start from this student: folder or Hub id.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of the student that is cut out; by default none.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Softens both distributions. Default 2.")] = None,
    objectives: Annotated[str | None, typer.Option(help='Weights: \'{"logits": 0.9, "hard": 0.1}\'.')] = None,
    soft_labels: Annotated[Path | None, typer.Option(help="File of soft labels, instead of the cache.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Run the teacher on each batch, without soft labels.")] = False,
    unlabelled: o.Unlabelled = None,
    extra_teacher: Annotated[
        list[str] | None, typer.Option("--extra-teacher", help="A further teacher; their logits are averaged.")
    ] = None,
    teacher_weights: Annotated[str | None, typer.Option(help="Of several teachers in order: 0.7,0.3.")] = None,
    quantization_aware: Annotated[
        str | None,
        typer.Option(
            help="Learn to be int8: weights, dynamic or dynamic-int4-embeddings (for onnx), static (for openvino)."
        ),
    ] = None,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Distil a student. Any field of DistillationTrainingArguments can be set, such as --learning-rate 2e-4."""
    from ..stages.distill import distill as run
    from ..stages.student import StudentArguments
    from ..training_args import DistillationTrainingArguments

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
    """`3` is how many, `0,2,5` is which."""
    if text is None:
        return None
    try:
        numbers = tuple(int(number) for number in text.strip("[]").split(","))
    except ValueError:
        raise InputError(f"--layers {text!r} is neither a number of layers (3) nor a list of them (0,2,5)") from None
    return numbers if "," in text else numbers[0]


def parse_weights(text: str | None) -> tuple[float, ...] | None:
    """`0.7,0.3`."""
    try:
        return None if text is None else tuple(float(weight) for weight in text.strip("[]").split(","))
    except ValueError:
        raise InputError(f"--teacher-weights {text!r} is no list of numbers, one for each teacher (0.7,0.3)") from None
