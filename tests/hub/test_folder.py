"""What is published: what others need, and nothing that is nobody's business."""

import json

import pytest

from tkd_hf import InputError
from tkd_hf.hub.folder import check_folder, publishable_files, publishable_record
from tkd_hf.stages.card import card

from ..conftest import read_json
from .runs import distilled, report_folder, run_folder


@pytest.fixture
def run(tmp_path):
    folder = run_folder(tmp_path / "secret-place" / "student", distilled())
    card(folder, report_folder(tmp_path / "report", str(folder)))
    return folder


def names(folder, *include):
    return [path.relative_to(folder).as_posix() for path in publishable_files(folder, include)]


NEEDED = [
    *("README.md", "config.json", "configuration_tkd.py", "layers_tkd.py", "model.safetensors", "modeling_tkd.py"),
    *("pictures/pareto.png", "report.json", "tkd_run.json", "tokenizer.json", "tokenizer_config.json"),
]


def test_what_is_needed_is_published_and_nothing_else(run):
    check_folder(run)
    for name in ("trainer_state.json", "disagreements-x.jsonl", "notes.json", "training_args.bin", ".env", "train.csv"):
        (run / name).write_text("{}")
    for name in ("checkpoint-1/optimizer.pt", "checkpoint-1/model.safetensors", "onnx/model.onnx", "adapter/x.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("{}")
    assert names(run) == NEEDED
    assert names(run, "onnx") == sorted([*NEEDED, "onnx/model.onnx"])
    (run / "removed_tokens.txt").write_text("film")
    assert "removed_tokens.txt" in names(run)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "a.pkl", "openvino/b.pickle"])
def test_pickles_are_refused(run, name):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}.*safetensors"):
        check_folder(run, ["openvino"] if "/" in name else [])


def test_weights_of_openvino_are_no_pickles(run):
    for name in ("openvino/openvino_model.xml", "openvino/openvino_model.bin"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(b"")
    assert set(names(run, "openvino")) - set(names(run)) == {
        "openvino/openvino_model.xml",
        "openvino/openvino_model.bin",
    }


def test_exports_that_are_not_there(run):
    with pytest.raises(InputError, match="has no onnx/"):
        publishable_files(run, ["onnx"])
    with pytest.raises(InputError, match="unknown export 'tflite'"):
        publishable_files(run, ["tflite"])
    with pytest.raises(InputError, match="is no folder"):
        publishable_files(run / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "layers_tkd.py", "modeling_tkd.py"])
def test_what_lacks_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(InputError, match=f"lacks .*{name}"):
        check_folder(run)


def test_what_other_runtimes_need(run):
    """Graphs bring their own code; only the configuration's is read."""
    (run / "model.safetensors").rename(run / "model.onnx")
    for name in ("layers_tkd.py", "modeling_tkd.py"):
        (run / name).unlink()
    check_folder(run)
    (run / "configuration_tkd.py").unlink()
    with pytest.raises(InputError, match=r"lacks configuration_tkd\.py"):
        check_folder(run)


def test_damaged_weights_are_named(run):
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        check_folder(run)
    weights.unlink()
    with pytest.raises(InputError, match="no weights"):
        check_folder(run)


def test_code_that_is_not_named(run):
    config = read_json(run / "config.json")
    del config["auto_map"]["AutoModelForSequenceClassification"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no auto_map for AutoModelForSequenceClassification"):
        check_folder(run)


def test_adapters_of_folders_load_nowhere_else(run, tmp_path):
    (run / "model.safetensors").rename(run / "adapter_model.safetensors")
    (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path), "r": 8}))
    with pytest.raises(InputError, match=r"base_model_name_or_path=.*push that model first"):
        check_folder(run)
    (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base", "r": 8}))
    check_folder(run)


def test_nothing_that_is_published_tells_where_it_was_made(run, tmp_path):
    for path in publishable_files(run):
        content = publishable_record(run) if path.name == "tkd_run.json" else path.read_bytes()
        assert str(tmp_path).encode() not in content, path
        assert b"/home/someone" not in content, path
    assert json.loads(publishable_record(run))["inputs"]["teacher"] == "org/teacher"
