"""`import tkd_hf` is light, the command line is lighter, all public names exist, and their examples run."""

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
import warnings

import pytest

import tkd_hf
from tkd_hf._old_paths import MOVED
from tkd_hf.cli.registry import COMMANDS

from .factories import TEXTS


def modules_loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_loads_neither_trainer_nor_backends():
    modules = modules_loaded_by("import tkd_hf; import transformers; transformers.AutoConfig.for_model('tkd')")
    heavy = "transformers.trainer datasets evaluate peft optimum bitsandbytes onnx openvino".split()
    assert not modules & set(heavy)


def test_help_loads_neither_torch_nor_transformers():
    statement = "import sys, tkd_hf_command; sys.argv[1:] = ['distill', '--help']"
    modules = modules_loaded_by(f"{statement}\ntry: tkd_hf_command.main()\nexcept SystemExit: pass")
    assert "tkd_hf.commands.options" in modules
    assert not modules & {"torch", "transformers", "datasets", "numpy"}


@pytest.mark.parametrize("program", ["/usr/bin/python", "/usr/bin/tkd-hf", "/home/me/tkd-hf.py"])
def test_importing_registers_tkd_whatever_the_script_is_called(program):
    """The model classes get `from_teacher` then, because their source file cannot define it."""
    statement = f"import sys; sys.argv[0] = {program!r}; import tkd_hf"
    statement += "; from tkd_hf.models.modeling_tkd import TKDModel; assert callable(TKDModel.from_teacher)"
    assert "tkd_hf.models.student" in modules_loaded_by(statement)


def test_the_command_registers_tkd_when_it_first_uses_a_public_name():
    statement = "import tkd_hf_command, tkd_hf; assert callable(tkd_hf.TKDModel.from_teacher)"
    assert "tkd_hf.models.registration" in modules_loaded_by(statement)


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


@pytest.mark.parametrize("old", sorted(MOVED))
def test_import_paths_of_version_0_1_lead_to_the_same_module(old):
    sys.modules.pop(old, None)
    with warnings.catch_warnings(record=True) as caught:  # the import of a parent, `tkd_hf.stages`, may warn as well
        warnings.simplefilter("always")
        module = importlib.import_module(old)
    assert any(re.search(rf"{old} is now {MOVED[old]};", str(warning.message)) for warning in caught)
    assert module is sys.modules[MOVED[old]]
    assert module.__spec__.name == MOVED[old]


def test_every_command_has_a_public_function():
    assert COMMANDS.keys() <= set(tkd_hf.__all__)


def run_example(name: str, replacements: dict[str, str]) -> None:
    """Run the example in the docstring of a public function, with tiny local models and data."""
    example = textwrap.dedent(re.search(r"```python\n(.*?)```", getattr(tkd_hf, name).__doc__, re.DOTALL)[1])
    for original, replacement in replacements.items():
        example = example.replace(original, replacement)
    exec(example, {})


@pytest.mark.parametrize("name", ["pretrain", "finetune", "augment", "label", "distill"])
def test_the_example_of_a_function_that_starts_from_the_hub_runs(
    name, teacher_folder, sst2_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 10))
    replacements = {
        "google-bert/bert-base-uncased": str(teacher_folder),
        "textattack/bert-base-uncased-SST-2": str(teacher_folder),
        'task="sst2"': f'task="sst2", data_dir={str(sst2_dir)!r}',
        '"Salesforce/wikitext", config="wikitext-103-raw-v1"': '"text.txt", max_length=12',
        "max_steps=10_000": "max_steps=1",
    }
    run_example(name, replacements)
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_examples_of_functions_that_start_from_a_student_run(
    teacher_folder, sst2_dir, tmp_path, no_processes, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(teacher_folder, "runs/teacher")
    data = f'task="sst2", data_dir={str(sst2_dir)!r}'
    student = {"textattack/bert-base-uncased-SST-2": "runs/teacher", "learning_rate=2e-4": "num_train_epochs=1"}
    run_example("distill", student | {'task="sst2"': data})
    replacements = {
        'task="sst2"': data,
        '"onnx"': '"bitsandbytes"',
        "lengths=[64]": "lengths=[16], rounds=2",
        "check_drop(0.01)": "check_drop(1.0)",
        'teacher="runs/teacher")\nprint(result.names)': 'teacher="runs/teacher", lengths=[16])\nprint(result.names)',
        "target_params=0.5": "target_params=0.9",
    }
    for name in ("prune", "quantize", "evaluate", "benchmark", "report", "card"):
        run_example(name, replacements)
        assert capsys.readouterr().out.strip(), name


def test_the_function_of_each_command_has_an_example_that_imports_it():
    for name in COMMANDS:
        assert re.search(rf"from tkd_hf import [\w, ]*\b{name}\n", getattr(tkd_hf, name).__doc__), name
