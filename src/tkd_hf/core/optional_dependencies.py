"""Packages of optional backends: imported on first use, without their telemetry and the warnings of their exporters."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from .errors import InputError


def import_optional(module: str, requirement: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: name of the module.
        requirement: what pip must install for it, such as `tkd-hf[onnx]`.
        purpose: what needs it, for the error message.

    Raises:
        InputError: if it is not installed. The message contains the command to install it.
    """
    package = module.partition(".")[0]
    if not find_spec(package) or not find_spec(module):
        raise InputError(f'{purpose} needs {module}, which is not installed: pip install "{requirement}"')
    os.environ.setdefault("NNCF_CI", "1")  # otherwise NNCF reports its use to an analytics service
    return import_module(module)


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
