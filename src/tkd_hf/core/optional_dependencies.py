"""Packages of optional backends: imported on first use, with their telemetry turned off."""

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from .errors import InputError


def import_optional(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional backend.

    Args:
        module: name of the module.
        extra: the extra of tkd-hf that installs it.
        purpose: what needs it, for the error message.

    Raises:
        InputError: if it is not installed. The message contains the command to install it.
    """
    package = module.partition(".")[0]
    if not find_spec(package) or not find_spec(module):
        raise InputError(f'{purpose} needs {module}, which is not installed: pip install "tkd-hf[{extra}]"')
    os.environ.setdefault("NNCF_CI", "1")  # otherwise NNCF reports its use to an analytics service
    imported = import_module(module)
    if module == "onnxruntime":
        imported.disable_telemetry_events()
    return imported
