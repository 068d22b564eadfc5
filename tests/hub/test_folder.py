"""Published files: everything that loading the model needs, and no private files, local paths or tokens."""

import json
import re

import pytest
from safetensors.torch import load_file, save_file

from tkd_hf import InputError
from tkd_hf.cards.generate import card
from tkd_hf.hub.folder import check_folder, publishable_files, publishable_record
from tkd_hf.hub.snapshot import copy_files
from tkd_hf.records.redaction import hub_id, redact, redacted_record
from tkd_hf.records.run_folder import StageRecord

from ..factories import distilled, read_json, report_folder, run_folder


@pytest.fixture
def run(tmp_path):
    folder = run_folder(tmp_path / "secret-place" / "student", distilled())
    card(folder, report_folder(tmp_path / "report", str(folder)))
    return folder


def names(folder, *include):
    return [path.relative_to(folder).as_posix() for path in publishable_files(folder, include)]


PUBLISHED = [
    *("README.md", "config.json", "configuration_tkd.py", "layers_tkd.py", "model.safetensors", "modeling_tkd.py"),
    *("pictures/pareto.png", "report.json", "tkd_run.json", "tokenizer.json", "tokenizer_config.json"),
]


def test_only_files_on_the_allow_list_are_published(run):
    check_folder(run)
    for name in ("trainer_state.json", "disagreements-x.jsonl", "notes.json", "training_args.bin", ".env", "train.csv"):
        (run / name).write_text("{}")
    for name in ("checkpoint-1/optimizer.pt", "checkpoint-1/model.safetensors", "onnx/model.onnx", "adapter/x.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("{}")
    assert names(run) == PUBLISHED
    assert names(run, "onnx") == sorted([*PUBLISHED, "onnx/model.onnx"])
    (run / "removed_tokens.txt").write_text("film")
    assert "removed_tokens.txt" in names(run)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "a.pkl", "openvino/b.pickle"])
def test_pickles_are_refused(run, name):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name}.*safetensors"):
        check_folder(run, ["openvino"] if "/" in name else [])


def test_openvino_weights_are_not_taken_for_pickles(run):
    for name in ("openvino/openvino_model.xml", "openvino/openvino_model.bin"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(b"")
    assert set(names(run, "openvino")) - set(names(run)) == {
        "openvino/openvino_model.xml",
        "openvino/openvino_model.bin",
    }


def test_missing_folders_and_exports_are_refused(run):
    with pytest.raises(InputError, match="has no onnx/"):
        publishable_files(run, ["onnx"])
    with pytest.raises(InputError, match="unknown export 'tflite'"):
        publishable_files(run, ["tflite"])
    with pytest.raises(InputError, match="is not a folder"):
        publishable_files(run / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "layers_tkd.py", "modeling_tkd.py"])
def test_missing_files_are_named(run, name):
    (run / name).unlink()
    with pytest.raises(InputError, match=f"lacks .*{name}"):
        check_folder(run)


def test_exports_need_only_the_source_file_of_the_configuration(run):
    """An exported graph contains the layers, so only the configuration needs a source file."""
    (run / "model.safetensors").rename(run / "model.onnx")
    for name in ("layers_tkd.py", "modeling_tkd.py"):
        (run / name).unlink()
    check_folder(run)
    (run / "configuration_tkd.py").unlink()
    with pytest.raises(InputError, match=r"lacks configuration_tkd\.py"):
        check_folder(run)


def test_damaged_or_missing_weights_are_refused(run):
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        check_folder(run)
    weights.unlink()
    with pytest.raises(InputError, match="no weights"):
        check_folder(run)


def test_configuration_without_auto_map_is_refused(run):
    config = read_json(run / "config.json")
    del config["auto_map"]["AutoModelForSequenceClassification"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no auto_map entry for AutoModelForSequenceClassification"):
        check_folder(run)


def test_adapter_of_a_local_base_model_is_refused(run, tmp_path):
    (run / "model.safetensors").rename(run / "adapter_model.safetensors")
    (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path), "r": 8}))
    with pytest.raises(InputError, match=r"base_model_name_or_path=.*push that model first"):
        check_folder(run)
    (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base", "r": 8}))
    check_folder(run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("LICENSE", "Ask hf_abcdefghij1234"),
        ("tokenizer_config.json", '{"auth": {"token": "hf_abcdefghij1234"}}'),
        ("modeling_tkd.py", "TOKEN = 'hf_abcdefghij1234'"),
    ],
)
def test_files_that_contain_a_token_are_refused(run, name, content):
    (run / name).write_text(content)
    with pytest.raises(InputError, match=rf"{re.escape(name)} contains .* Hub token; remove it") as raised:
        check_folder(run)
    assert "hf_abcdefghij" not in str(raised.value)


def test_weights_whose_metadata_contain_a_token_are_refused(run):
    weights = load_file(run / "model.safetensors")
    save_file(weights, run / "model.safetensors", metadata={"format": "pt", "note": f"hf_{'a1' * 17}"})
    with pytest.raises(InputError, match=r"model\.safetensors contains .* Hub token"):
        check_folder(run)


def test_nested_local_paths_are_refused_but_labels_that_look_like_paths_are_not(run):
    config = read_json(run / "config.json")
    (run / "config.json").write_text(json.dumps(config | {"id2label": {"0": "/business", "1": "/sports"}}))
    check_folder(run)
    (run / "config.json").write_text(json.dumps(config | {"nested": [{"cache_dir": "/home/ann/cache"}]}))
    with pytest.raises(InputError, match=r"config\.json has nested\[0\]\.cache_dir='/home/ann/cache'.*remove it"):
        check_folder(run)


def test_a_file_exchanged_for_a_link_during_the_copy_is_refused(run, tmp_path):
    (tmp_path / "secret").write_text("key")
    (tmp_path / "copies").mkdir()
    files = publishable_files(run)
    (run / "README.md").unlink()
    (run / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"README\.md is a link to .*secret"):
        copy_files(run, files, tmp_path / "copies")
    (run / "README.md").unlink()
    (run / "pictures").rename(tmp_path / "elsewhere")
    (run / "pictures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"pictures is a link to .*elsewhere"):
        copy_files(run, [file for file in files if file.parent.name == "pictures"], tmp_path / "copies")


def test_card_is_not_written_from_a_link(run, tmp_path):
    (tmp_path / "secret").write_text("key")
    (run / "README.md").unlink()
    (run / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"README\.md is a link to .*secret"):
        card(run)


def test_published_files_contain_no_local_paths(run, tmp_path):
    for path in publishable_files(run):
        content = publishable_record(run) if path.name == "tkd_run.json" else path.read_bytes()
        assert str(tmp_path).encode() not in content, path
        assert b"/home/someone" not in content, path
    assert json.loads(publishable_record(run))["inputs"]["teacher"] == "org/teacher"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("/home/me/runs/x", "x"),
        ("/home/me/my runs/x y", "x y"),
        ("~/runs/x/", "x"),
        ("../data/train.csv", "train.csv"),
        ("C:\\Users\\me\\x.csv", "x.csv"),
        ("file:///srv/x", "x"),
        ("cannot read /home/me/a.csv: gone", "cannot read a.csv: gone"),
        ("org/model", "org/model"),
        ("https://huggingface.co/org/model", "https://huggingface.co/org/model"),
        ("km/h, and/or 1/2", "km/h, and/or 1/2"),
        ("hf_abcdefghij123", "…"),
    ],
)
def test_redact_removes_local_paths_and_tokens(text, redacted):
    assert redact(text) == redacted
    assert redact({"a": [{text: (text,)}]}) == {"a": [{redacted: [redacted]}]}


def test_redacted_record_keeps_hub_ids_and_shortens_folders():
    inputs = {
        "teacher": ["org/a@v1", "runs/b"],
        "teacher_revision": ["commit-1", "files-2"],
        "tokenizer": "runs/tokenizer",
    }
    record = redacted_record(StageRecord("distill", inputs, {"student": "runs/base"}))
    assert record.inputs["teacher"] == ["org/a@v1", "b"]
    assert (record.inputs["tokenizer"], record.arguments["student"]) == ("tokenizer", "base")
    assert (hub_id("org/a@v1", "commit-1"), hub_id("runs/b", "files-2"), hub_id(None, None)) == ("org/a", None, None)
    assert inputs["teacher"][1] == "runs/b"
