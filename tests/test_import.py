"""`import tkd_hf` is light, the command line is lighter, and the public names are all there."""

import pkgutil
import subprocess
import sys

import pytest

import tkd_hf
from tkd_hf.cli import app


def modules_loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_loads_neither_trainer_nor_backends():
    modules = modules_loaded_by("import tkd_hf; import transformers; transformers.AutoConfig.for_model('tkd')")
    heavy = "transformers.trainer datasets evaluate peft optimum bitsandbytes onnx openvino".split()
    assert not modules & set(heavy)


def test_help_loads_neither_torch_nor_transformers():
    modules = modules_loaded_by("import sys; sys.argv[0] = '/usr/bin/tkd-hf'; import tkd_hf.cli")
    assert not modules & {"torch", "transformers", "datasets"}


def test_public_names_are_importable():
    for name in set(tkd_hf.__all__) - {"OBJECTIVES"}:
        assert getattr(tkd_hf, name).__name__ == name
    assert set(tkd_hf.__all__) <= set(dir(tkd_hf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tkd_hf.nothing


def test_no_submodule_shadows_a_public_name():
    """Importing `tkd_hf.x` sets the attribute `x` of the package, which would hide a public function of that name."""
    submodules = {module.name for module in pkgutil.iter_modules(tkd_hf.__path__)}
    assert not submodules & set(tkd_hf.__all__)


def test_every_command_has_a_public_function():
    commands = {command.name for command in app.registered_commands} - {"run"}
    assert commands <= set(tkd_hf.__all__)
