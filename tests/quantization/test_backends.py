"""A backend from outside the package works with every command after one registration."""

import pytest

from tkd_hf import DataArguments, InputError, benchmark, evaluate, quantize
from tkd_hf.commands.push import plan_push
from tkd_hf.inference.runners import load_runner
from tkd_hf.models.backends import BACKENDS, Backend
from tkd_hf.quantization import load_backend

from ..factories import build_tokenizer, read_json, student_of


@pytest.fixture
def registered(extension):
    """Register the backend of docs/extending.md, and return its class."""
    return extension("Add a quantization backend").Float16


@pytest.fixture
def student_folder(tmp_path, teacher):
    student_of(teacher).save_pretrained(tmp_path / "student")
    build_tokenizer().save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def test_outside_backend_is_quantized_evaluated_and_published(registered, student_folder, sst2_dir, tmp_path):
    data, folder = DataArguments(task="sst2", data_dir=sst2_dir), tmp_path / "half"
    record = quantize(str(student_folder), folder, "float16", data=data)
    assert record.metrics["agreement"] == 1
    assert read_json(folder / "config.json")["quantization"] == {"backend": "float16", "weights": "float16"}
    runner = load_runner(str(folder))
    assert (runner.backend, [file.name for file in runner.files]) == ("float16", ["float16.bin"])
    assert runner.megabytes < 0.6 * load_runner(str(student_folder)).megabytes
    model = evaluate(str(folder), data).models[0]
    assert (model.backend, model.metrics) == ("float16", {"accuracy": record.metrics["accuracy"]})
    plan = plan_push(folder, "org/half")
    assert {"float16.bin", "config.json", "tokenizer.json", "README.md"} <= plan.files.keys()
    assert "| quantization | float16, float16 |" in plan.card
    assert 'Register `Float16`, then call `load_runner("float16.bin")`.' in plan.card


@pytest.mark.slow
def test_memory_of_an_outside_backend_is_measured_in_its_own_process(registered, student_folder, tmp_path):
    """A new process, which takes 15 s, must register the backend as well."""
    quantize(str(student_folder), tmp_path / "half", "float16")
    result = benchmark([str(tmp_path / "half")], batch_sizes=(1,), lengths=(4,), rounds=1)
    assert result.models[0].footprint.peak_megabytes > 0


def test_unknown_backends_and_schemes_are_refused_with_the_choices(registered):
    with pytest.raises(InputError, match="unknown backend 'gguf'; choose among openvino, onnx, bitsandbytes, quanto"):
        load_backend("gguf")
    with pytest.raises(InputError, match="backend float16 has no scheme weights='int8'; choose among float16"):
        load_backend("float16", "int8")


def test_missing_package_of_an_outside_backend_names_what_to_install(registered, monkeypatch):
    monkeypatch.setattr(registered, "modules", ("no_such_module",))
    monkeypatch.setattr(registered, "requirement", "half-precision>=2")
    with pytest.raises(InputError, match=r'no_such_module, which is not installed: pip install "half-precision>=2"'):
        load_backend("float16")


@pytest.mark.parametrize("name", list(BACKENDS))
def test_every_backend_describes_its_schemes_and_owns_its_exports(name, tmp_path):
    backend = BACKENDS[name]
    assert set(backend.calibrated_schemes) <= backend.schemes.keys()
    assert all(text.endswith(".") for text in backend.schemes.values())
    assert bool(backend.exports) == (type(backend).load_export is not Backend.load_export)
    for pattern in backend.exports:
        file = tmp_path / pattern.replace("*", "x")
        file.parent.mkdir(exist_ok=True)
        file.touch()
        assert backend.exported_files(file) == [file]
    assert len(backend.exported_files(tmp_path)) == len(backend.exports)
