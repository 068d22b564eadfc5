"""Quantization: one file a backend, each with one function that writes a folder which the backend's own classes load.

A backend's file has `SCHEMES`, the names of what it can make of a model, the default first; `CALIBRATED_SCHEMES`, those
of them that need examples to calibrate on; and

    def quantize(model, tokenizer, folder, *, weights, calibration) -> dict[str, Any]

which leaves the model as it is, and the whole of the quantized one in `folder`, an empty folder: `config.json`, the
tokenizer's files, the weights. `weights` is one of the schemes, `calibration` a function that gives batches of one
training example each, as the tokenizer encodes them. What it returns is for the record: `{"weights": "int8",
"activations": "int8 dynamic"}`.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from types import ModuleType

from ..errors import InputError
from ..optional_dependencies import import_optional


# name of a backend, of its file here, and of the extra that brings what it needs -> what it needs
BACKENDS = {
    "openvino": ("optimum.intel", "openvino", "nncf"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "bitsandbytes": (),  # comes with tkd-hf itself
    "quanto": ("optimum.quanto",),
}


def load_backend(name: str, weights: str | None = None) -> tuple[ModuleType, str]:
    """The file of a backend, and its scheme of that name; by default its first.

    Raises:
        InputError: if there is no such backend or scheme, or a package that it needs is not installed.
    """
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; there are {', '.join(BACKENDS)}")
    for module in BACKENDS[name]:
        import_optional(module, name, f"the backend {name}")
    backend = import_module(f".{name}", __name__)
    if weights not in (None, *backend.SCHEMES):
        raise InputError(
            f"the backend {name} has no scheme weights={weights!r}; there are {', '.join(backend.SCHEMES)}"
        )
    return backend, weights or backend.SCHEMES[0]


@contextmanager
def suppress_exporter_output(*loggers: str) -> Iterator[None]:
    """Keeps to themselves what exporters say of their insides: warnings of Python's, and of these loggers.

    What they print, such as progress, goes to standard error.
    """
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    # onnxruntime calls logging.basicConfig when it is imported, which does nothing where there is a handler
    nobody = logging.NullHandler()
    logging.root.addHandler(nobody)
    try:
        for logger in found:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(nobody)
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)
