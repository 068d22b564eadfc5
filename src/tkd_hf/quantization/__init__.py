"""Quantization: store a model's weights in 8 or 4 bits, or export it for another runtime.

Which backend to choose:

- `onnx` runs anywhere, also in the browser (transformers.js). On CPUs it is usually the fastest for one short text at
  a time. Its activations are quantized as they come, so it needs no calibration data.
- `openvino` is for Intel processors. `int8` quantizes only weights and loses least; `int8-static` also quantizes
  activations and is usually the fastest for large batches of long texts, but it needs calibration data and can cost a
  regression model much of its score.
- `bitsandbytes` and `quanto` save memory. They do not make a model faster on a CPU, and often make it slower.

Measure before choosing: `tkd-hf quantize` compares the quantized model with the float model. If it lost too
much, train the student with fake quantization first (`tkd_hf.quantization.aware`).

To add a backend, write a module in this package with its name, and add it to `BACKENDS`. The module has

- `SCHEMES`: names of the schemes that it offers, the default first;
- `CALIBRATED_SCHEMES` (optional): those that need calibration examples;
- a function that writes the quantized model to a folder:

      def quantize(model, tokenizer, folder, *, weights, calibration) -> dict[str, Any]

`quantize` does not change `model`. It writes a complete model to `folder`, which is empty: `config.json`, the files of
the tokenizer, and the weights, so that the backend's own classes can load it. `weights` is one of the schemes.
`calibration` is a function that yields batches of one tokenized training example each. The returned dictionary
describes the result for the run record, such as `{"weights": "int8", "activations": "int8 dynamic"}`. If the files need
a runner of their own, add it to `tkd_hf.inference.runners`.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from types import ModuleType

from ..core.errors import InputError
from ..core.optional_dependencies import import_optional


# Modules that each backend needs. The name of a backend is also the name of its module in this package, and of the
# extra of tkd-hf that installs those modules.
BACKENDS = {
    "openvino": ("optimum.intel", "openvino", "nncf"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "bitsandbytes": (),  # a dependency of tkd-hf itself
    "quanto": ("optimum.quanto",),
}


def load_backend(name: str, weights: str | None = None) -> tuple[ModuleType, str]:
    """Import the module of a backend, and check the name of a scheme.

    Args:
        name: one of `BACKENDS`.
        weights: one of the backend's `SCHEMES`; by default the first.

    Returns:
        the module, and the name of the scheme.

    Raises:
        InputError: if the backend or the scheme is unknown, or a package that the backend needs is not installed.
    """
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; choose among {', '.join(BACKENDS)}")
    for module in BACKENDS[name]:
        import_optional(module, name, f"the backend {name}")
    backend = import_module(f".{name}", __name__)
    if weights not in (None, *backend.SCHEMES):
        raise InputError(
            f"the backend {name} has no scheme weights={weights!r}; choose among {', '.join(backend.SCHEMES)}"
        )
    return backend, weights or backend.SCHEMES[0]


@contextmanager
def suppress_exporter_output(*loggers: str) -> Iterator[None]:
    """Hide the warnings of exporters while they run, and redirect their standard output to standard error.

    Args:
        loggers: names of the loggers to silence below the level `ERROR`.
    """
    silenced = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in silenced]
    # On import, onnxruntime calls logging.basicConfig, which does nothing if the root logger already has a handler.
    placeholder = logging.NullHandler()
    logging.root.addHandler(placeholder)
    try:
        for logger in silenced:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(placeholder)
        for logger, level in zip(silenced, levels, strict=True):
            logger.setLevel(level)
