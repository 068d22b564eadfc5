"""Importing the package is light, and the command line lighter."""

import subprocess
import sys

import pytest

import tkd_hf


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_loads_neither_trainer_nor_backends():
    modules = loaded_after("import tkd_hf; import transformers; transformers.AutoConfig.for_model('tkd')")
    heavy = "transformers.trainer datasets evaluate peft optimum bitsandbytes onnx openvino".split()
    assert not modules & set(heavy)


def test_help_loads_neither_torch_nor_transformers():
    modules = loaded_after("import sys; sys.argv[0] = '/usr/bin/tkd-hf'; import tkd_hf.cli")
    assert not modules & {"torch", "transformers", "datasets"}


def test_public_names_exist():
    for name in tkd_hf.__all__:
        assert getattr(tkd_hf, name).__name__ == name
    assert set(tkd_hf.__all__) <= set(dir(tkd_hf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tkd_hf.nothing
