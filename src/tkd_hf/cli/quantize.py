"""`tkd-hf quantize`: the student as people run it, in int8 or for another runtime."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import options as o
from .output import announce, show_quantized, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


@o.with_optional_data
def quantize(
    model: Annotated[str, typer.Argument(help="Model in floats: folder or Hub id.")],
    data: "DataArguments | None",
    output_dir: o.OutputDir,
    backend: Annotated[str, typer.Option(help="openvino, onnx, bitsandbytes or quanto.")],
    weights: Annotated[
        str | None, typer.Option(help="Scheme of the backend: int8, int8-static, nf4 …; by default its first.")
    ] = None,
    calibration: Annotated[int, typer.Option(min=1, help="Training examples to calibrate int8-static on.")] = 300,
    max_drop: o.MaxDrop = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Quantize a model, and measure it beside the model in floats.

    Where data is named, the metrics of both are measured on its evaluation split; int8-static of openvino needs it to
    calibrate on. The gate (--max-drop) is how far below the model in floats the quantized one may be.
    """
    from ..quantization import load_backend
    from ..stages.quantize import check_quantization_gate
    from ..stages.quantize import quantize as run

    if max_drop is not None and data is None:
        raise InputError(
            f"--max-drop {max_drop} is how far below the model in floats it may be: name the data (--task)"
        )
    _, weights = load_backend(backend, weights)
    announce(f"quantizing {model} into {output_dir} with {backend}, {weights}")
    record = run(model, output_dir, backend, weights, data, calibration, overwrite, resume)
    show_quantized(model, str(output_dir), record)
    suggest(f"tkd-hf benchmark {model} {output_dir}{f' {o.data_flags(data)}' if data else ''}")
    content = write_json(json_file, vars(record))
    if max_drop is not None:
        check_quantization_gate(record, max_drop)
    return content
