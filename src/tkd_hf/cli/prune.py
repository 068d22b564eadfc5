"""`tkd-hf prune`: a smaller student, without the heads, neurons, layers and tokens that matter least."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import options as o
from .output import announce, show_record, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_data
def prune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Student, or teacher to make one of: folder or Hub id.")],
    data: "DataArguments",
    output_dir: o.OutputDir,
    teacher: Annotated[str | None, typer.Option(help="Teacher. Default: the model itself, as it was.")] = None,
    target_params: Annotated[float | None, typer.Option(help="Share of the parameters to be left: 0.5.")] = None,
    target_size: Annotated[str | None, typer.Option(help="Size of the weights: 10MB.")] = None,
    target_speedup: Annotated[float | None, typer.Option(help="Times as fast, measured on this machine: 2.")] = None,
    importance: Annotated[str, typer.Option(help="taylor, magnitude or activation.")] = "taylor",
    schedule: Annotated[
        str | None, typer.Option(help="When to prune in training: one-shot, linear or cubic (default).")
    ] = None,
    units: Annotated[str, typer.Option(help="What may go; hidden (width) can, too.")] = "heads,neurons,layers",
    calibration: Annotated[int, typer.Option(min=1, help="Examples to measure importance on.")] = 256,
    vocabulary: Annotated[
        bool, typer.Option("--vocabulary", help="Keep only the tokens of the training texts; alone or with a target.")
    ] = False,
    sparsity: Annotated[
        float | None, typer.Option(help="Share of single weights to set to zero: 0.8. Makes nothing faster.")
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="Of M neighbouring weights keep N: 2:4.")] = None,
    scope: Annotated[str, typer.Option(help="Of --sparsity: global or layer.")] = "global",
    nncf: Annotated[bool, typer.Option("--nncf", help="Let NNCF choose the weights of --sparsity.")] = False,
    no_train: Annotated[bool, typer.Option("--no-train", help="Prune at once, without recovery.")] = False,
    temperature: Annotated[float | None, typer.Option(help="Softens both distributions. Default 2.")] = None,
    objectives: Annotated[str | None, typer.Option(help='Weights: \'{"logits": 0.9, "hard": 0.1}\'.')] = None,
    soft_labels: Annotated[Path | None, typer.Option(help="File of soft labels, instead of the cache.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Run the teacher on each batch, without soft labels.")] = False,
    unlabelled: o.Unlabelled = None,
    max_drop: o.MaxDrop = None,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Prune a model towards a target while it is distilled; or its vocabulary; or single weights, to zero.

    The gate (--max-drop) is how far below its teacher the pruned model may be.

    Any field of DistillationTrainingArguments can be set for the recovery, such as --num-train-epochs 2.
    """
    from ..stages.evaluate import evaluate
    from ..stages.prune import PruningArguments
    from ..stages.prune import prune as run
    from ..training_args import DistillationTrainingArguments

    if no_train and schedule not in (None, "one-shot"):
        raise InputError(f"--schedule {schedule} needs training to prune in, and there is --no-train; drop one of them")
    pruning = PruningArguments(
        target_params=target_params,
        target_size=None if target_size is None else parse_size(target_size),
        target_speedup=target_speedup,
        importance=importance,
        schedule=schedule or ("one-shot" if no_train else "cubic"),
        units=tuple(re.findall(r"\w+", units)),
        calibration=calibration,
        vocabulary=vocabulary,
        sparsity=sparsity,
        pattern=pattern,
        scope=scope,
        nncf=nncf,
    )
    args = o.training_arguments(
        DistillationTrainingArguments,
        context,
        output_dir,
        seed=seed,
        temperature=temperature,
        objectives=objectives,
    )
    announce(f"pruning {model} on {data.task or data.dataset} into {output_dir}")
    record = run(
        model,
        data,
        args,
        pruning,
        teacher,
        not no_train,
        soft_labels,
        live,
        overwrite=overwrite,
        resume=resume,
        unlabelled=unlabelled or (),
    )
    show_record(str(output_dir), record.metrics, record.seconds)
    suggest(f"tkd-hf evaluate {output_dir} --teacher {teacher or model} {o.data_flags(data)}")
    content = write_json(json_file, vars(record))
    if max_drop is not None:
        evaluate(str(output_dir), data, teacher or model).check_drop(max_drop)
    return content


def parse_size(text: str) -> float:
    """`10MB`, or `10`: megabytes, of 10⁶ bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)?", text.strip(), re.IGNORECASE)
    if not found:
        raise InputError(f"--target-size {text!r} is no size; write it as 10MB")
    return float(found[1]) * {"KB": 1e-3, "MB": 1.0, "GB": 1e3}[(found[2] or "MB").upper()]
