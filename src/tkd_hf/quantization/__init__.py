"""Quantization: store a model's weights in 8 or 4 bits, or export it for another runtime.

Which backend to choose:

- `onnx` runs anywhere, also in the browser (transformers.js). On CPUs it is usually the fastest for one short text at
  a time. Its activations are quantized as they come, so it needs no calibration data.
- `openvino` is for Intel processors. `int8` quantizes only weights and loses least; `int8-static` also quantizes
  activations and is usually the fastest for large batches of long texts, but it needs calibration data and can cost a
  regression model much of its score.
- `bitsandbytes` and `quanto` save memory. They do not make a model faster on a CPU, and often make it slower.

Measure before choosing: `tkd-hf quantize` compares the quantized model with the float model. If it lost too
much, train the student with fake quantization first (`tkd_hf.training.quantization_aware`).

To add a backend to this package, write a subclass of `Backend` in a file here, and register it below. From outside the
package, call `register_backend`.
"""

from ..core.errors import InputError
from ..models.backends import BACKENDS, Backend, register_backend
from .bitsandbytes import BitsAndBytes
from .onnx import ONNX
from .openvino import OpenVINO
from .quanto import Quanto


__all__ = ["BACKENDS", "Backend", "load_backend", "register_backend"]

register_backend(OpenVINO())
register_backend(ONNX())
register_backend(BitsAndBytes())
register_backend(Quanto())


def load_backend(name: str, weights: str | None = None) -> tuple[Backend, str]:
    """Return a backend that is ready for use, and check the name of a scheme.

    Args:
        name: one of `BACKENDS`.
        weights: one of the backend's `schemes`; by default the first.

    Returns:
        the backend, and the name of the scheme.

    Raises:
        InputError: if the backend or the scheme is unknown, or a package that the backend needs is not installed.
    """
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; choose among {', '.join(BACKENDS)}")
    backend = BACKENDS[name]
    backend.require(f"the backend {name}")
    if weights not in (None, *backend.schemes):
        raise InputError(
            f"the backend {name} has no scheme weights={weights!r}; choose among {', '.join(backend.schemes)}"
        )
    return backend, weights or next(iter(backend.schemes))
