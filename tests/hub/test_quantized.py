"""What is made of a model on the Hub in fewer bits, and pushed beside it: with the right relation to its parent."""

import pytest
import yaml

from tkd_hf import InputError
from tkd_hf.quantization import load_backend

from ..conftest import read_json
from .conftest import build_run


WEIGHTS = {
    "bitsandbytes": "model.safetensors",
    "quanto": "model.safetensors",
    "onnx": "onnx/model.onnx",
    "openvino": "openvino_model.bin",
}


@pytest.fixture(scope="module")
def parent(client, tmp_path_factory):
    folder = build_run(tmp_path_factory.mktemp("parent") / "run")
    done = client("push", folder, "--repo-id", "org/parent")
    assert done.code == 0, done.err
    return "org/parent"


@pytest.mark.parametrize("backend", WEIGHTS)
def test_there_and_back(client, hub, parent, sst2_dir, tmp_path, backend):
    """Quantized from its id, pushed, and found to be what its card says."""
    try:
        load_backend(backend)
    except InputError as error:
        pytest.skip(str(error))
    folder, name = tmp_path / "run", f"org/{backend}"
    words = ("--backend", backend, "--output-dir", folder, "--task", "sst2", "--data-dir", sst2_dir)
    done = client("quantize", parent, *words)
    assert done.code == 0, done.err
    done = client("push", folder, "--repo-id", name, *(("--include", backend) if backend == "onnx" else ()))
    assert done.code == 0, done.err
    files = hub.repos[name].files()
    assert WEIGHTS[backend] in files
    metadata = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (metadata["base_model"], metadata["base_model_relation"]) == (parent, "quantized")
    done = client("verify", name, "--data-dir", sst2_dir, "--json", tmp_path / "v.json")
    assert done.code == 0, done.err
    assert read_json(tmp_path / "v.json")["files"] == len(files)
