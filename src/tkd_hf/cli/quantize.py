"""`tkd-hf quantize`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from . import options as o
from .output import announce, show_quantized, suggest, write_json


if TYPE_CHECKING:
    from ..data.loading import DataArguments


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

    if max_drop is not None and data is None:
        raise InputError(
            f"--max-drop {max_drop} is the largest allowed drop below the float model: name the data (--task)"
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
