"""Packages of optional backends: loaded when they are first used, and told not to report their use to their makers."""

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from .errors import InputError


def import_optional(module: str, extra: str, purpose: str) -> ModuleType:
    """A module of an optional backend.

    Args:
        module: its name.
        extra: of tkd-hf, which brings it.
        purpose: what needs it, for the error.

    Raises:
        InputError: with the command that installs it, if it is not there.
    """
    package = module.partition(".")[0]
    if not find_spec(package) or not find_spec(module):
        raise InputError(f'{purpose} needs {module}, which is not installed: pip install "tkd-hf[{extra}]"')
    os.environ.setdefault("NNCF_CI", "1")  # without it NNCF sends what is done with it to an analytics service
    found = import_module(module)
    if module == "onnxruntime":
        found.disable_telemetry_events()
    return found
