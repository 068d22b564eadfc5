"""The commands that make a model smaller: `prune` and `quantize`."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from ..evaluation.tables import quantization_table, stage_table
from . import options as o
from .output import announce, store_and_show, suggest


if TYPE_CHECKING:
    from ..data.arguments import DataArguments


@o.with_data
def prune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model to prune, a student or a teacher: folder or Hub id.")],
    data: "DataArguments",
    output_dir: o.OutputDir,
    teacher: Annotated[
        str | None, o.option(help="Teacher to learn from: folder or Hub id (the model before pruning).")
    ] = None,
    target_params: Annotated[float | None, o.option(help="Share of the parameters to keep, such as 0.5.")] = None,
    target_size: Annotated[str | None, o.option(help="Size of the weights, such as 10MB.")] = None,
    target_speedup: Annotated[
        float | None, o.option(help="Speed relative to the unpruned model on this machine, such as 2.")
    ] = None,
    importance: Annotated[
        str, o.option(help="Measure of importance: taylor, magnitude or activation (taylor).")
    ] = "taylor",
    schedule: Annotated[
        str | None, o.option(help="When to prune during training: one-shot, linear or cubic (cubic).")
    ] = None,
    units: Annotated[
        str, o.option(help="What may be removed; hidden, the width, is possible as well (heads,neurons,layers).")
    ] = "heads,neurons,layers",
    calibration: Annotated[int, o.option(min=1, help="Training examples to measure importance on (256).")] = 256,
    vocabulary: Annotated[
        bool, o.option("--vocabulary", help="Keep only the tokens of the training texts; alone or with a target.")
    ] = False,
    sparsity: Annotated[
        float | None, o.option(help="Share of single weights to set to zero, such as 0.8; saves no time.")
    ] = None,
    pattern: Annotated[str | None, o.option(help="Keep N of M neighbouring weights, such as 2:4.")] = None,
    scope: Annotated[
        str, o.option(help="Scope of --sparsity: global, over all weights, or layer, in each layer (global).")
    ] = "global",
    nncf: Annotated[bool, o.option("--nncf", help="Let NNCF choose the weights of --sparsity.")] = False,
    no_train: Annotated[bool, o.option("--no-train", help="Prune at once, without training afterwards.")] = False,
    temperature: o.Temperature = None,
    objectives: o.Objectives = None,
    soft_labels: o.SoftLabels = None,
    live: o.Live = False,
    unlabelled: o.Unlabelled = None,
    max_drop: o.MaxDrop = None,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Prune a model to a target size or speed while distilling it; or prune its vocabulary, or single weights.

    Give one target: --target-params, --target-size, --target-speedup, --sparsity or --pattern; --vocabulary can stand
    alone or go with any of them. With --max-drop, exit with code 1 if the pruned model's main metric is further below
    its teacher's.

    Every field of DistillationTrainingArguments is an option as well, such as --num-train-epochs 2.
    """
    from ..commands.evaluate import evaluate
    from ..commands.prune import prune as run
    from ..objectives.arguments import DistillationTrainingArguments
    from ..pruning.arguments import PruningArguments

    if no_train and schedule not in (None, "one-shot"):
        raise InputError(
            f"--schedule {schedule} prunes during training, which --no-train turns off; drop one of the two"
        )
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
    content = store_and_show(json_file, vars(record), stage_table(str(output_dir), record))
    suggest(f"tkd-hf evaluate {output_dir} --teacher {teacher or model} {o.data_flags(data)}")
    if max_drop is not None:
        evaluate(str(output_dir), data, teacher or model).check_drop(max_drop)
    return content


def parse_size(text: str) -> float:
    """Parse a size such as `10MB`, or `10`, into megabytes (10⁶ bytes)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)?", text.strip(), re.IGNORECASE)
    if not match:
        raise InputError(f"--target-size {text!r} is not a size; write it as 10MB")
    return float(match[1]) * {"KB": 1e-3, "MB": 1.0, "GB": 1e3}[(match[2] or "MB").upper()]


@o.with_optional_data
def quantize(
    model: Annotated[str, typer.Argument(help="Float model: folder or Hub id.")],
    data: "DataArguments | None",
    output_dir: o.OutputDir,
    backend: Annotated[str, o.option(help="Backend: openvino, onnx, bitsandbytes or quanto.")],
    weights: Annotated[
        str | None, o.option(help="Scheme of the backend, such as int8, int8-static or nf4 (the backend's first).")
    ] = None,
    calibration: Annotated[int, o.option(min=1, help="Training examples to calibrate int8-static on (300).")] = 300,
    max_drop: o.MaxDrop = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Quantize a model, and compare it with the float model in size and latency.

    If data are named, the metrics of both are compared on the evaluation split. OpenVINO's int8-static needs data for
    calibration. With --max-drop, exit with code 1 if the main metric is further below the float model's.
    """
    from ..commands.quantize import check_quantization_gate
    from ..commands.quantize import quantize as run
    from ..quantization import load_backend
    from ..records.recorded import recorded_data

    if max_drop is not None:
        data = data or recorded_data(model)
    _, weights = load_backend(backend, weights)
    announce(f"quantizing {model} into {output_dir} with {backend}, {weights}")
    record = run(model, output_dir, backend, weights, data, calibration, overwrite, resume)
    content = store_and_show(json_file, vars(record), quantization_table(model, str(output_dir), record))
    suggest(f"tkd-hf benchmark {model} {output_dir}{f' {o.data_flags(data)}' if data else ''}")
    if max_drop is not None:
        check_quantization_gate(record, max_drop)
    return content
