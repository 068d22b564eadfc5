"""The common interface to models of PyTorch, bitsandbytes, onnxruntime and OpenVINO.

The exports are built by hand: a table gives the logits of each token, and the logits of a text are their sum.
"""

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from tkd_hf.core import optional_dependencies
from tkd_hf.core.errors import InputError
from tkd_hf.inference.runners import PyTorchRunner, load_runner

from ..conftest import TEXTS, WORDS


TABLE = np.random.default_rng(0).normal(size=(len(WORDS), 2)).astype(np.float32)


def write_onnx(path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["token_logits"], axis=0),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide_mask"]),
        helper.make_node("Mul", ["token_logits", "wide_mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "length_axis"], ["logits"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(TABLE, "table"),
        numpy_helper.from_array(np.array([-1]), "last"),
        numpy_helper.from_array(np.array([1]), "length_axis"),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "sum", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_openvino(path):
    openvino = pytest.importorskip("openvino")
    ops = openvino.opset13
    ids, mask = (ops.parameter([-1, -1], np.int64, name=name) for name in ("input_ids", "attention_mask"))
    for parameter in (ids, mask):
        parameter.output(0).set_names({parameter.friendly_name})
    masked = ops.gather(TABLE, ids, np.int64(0)) * ops.unsqueeze(ops.convert(mask, "f32"), np.int64(-1))
    logits = ops.reduce_sum(masked, np.array([1]))
    logits.output(0).set_names({"logits"})
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.Model([logits], [ids, mask], "sum"), str(path), compress_to_fp16=False)


@pytest.fixture
def exported(tmp_path, teacher, tokenizer):
    """A folder with the configuration and the tokenizer of a model, to which a test adds an export."""
    teacher.config.architectures = ["BertForSequenceClassification"]
    teacher.config.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def expected(tokenizer):
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    return batch, (TABLE[batch["input_ids"]] * batch["attention_mask"].numpy()[..., None]).sum(1)


@pytest.mark.parametrize(
    ("backend", "write", "file", "name"),
    [
        ("onnx", write_onnx, "onnx/model.onnx", ""),
        ("onnx", write_onnx, "model.onnx", ""),
        ("onnx", write_onnx, "onnx/model_quantized.onnx", "onnx/model_quantized.onnx"),
        ("openvino", write_openvino, "openvino_model.xml", ""),
        ("openvino", write_openvino, "openvino/openvino_model.xml", ""),
        ("openvino", write_openvino, "openvino/openvino_model.xml", "openvino"),
    ],
)
def test_exports_compute_the_expected_logits(exported, tokenizer, backend, write, file, name):
    if backend == "openvino":
        pytest.importorskip("optimum.intel")
    else:
        pytest.importorskip("onnxruntime")
    write(exported / file)
    if "openvino/" in file:  # optimum needs the configuration beside the graph
        shutil.copy(exported / "config.json", exported / "openvino")
    run = load_runner(str(exported / name))
    assert run.backend == backend
    batch, logits = expected(tokenizer)
    np.testing.assert_allclose(run(batch).numpy(), logits, atol=1e-5)
    np.testing.assert_allclose(run({name: values[:1] for name, values in batch.items()}).numpy(), logits[:1], atol=1e-5)
    assert run.megabytes >= TABLE.nbytes / 1e6
    assert run.dtype.split("+")[0] == "float32"


def test_pytorch_weights_take_precedence_over_exports_beside_them(exported, teacher):
    teacher.save_pretrained(exported)
    (exported / "onnx").mkdir()
    (exported / "onnx" / "model.onnx").touch()
    run = load_runner(str(exported))
    assert run.backend == "pytorch"
    assert 0 < run.megabytes - sum(weight.nbytes for weight in teacher.parameters()) / 1e6 < 0.01  # the file header


def test_a_quantized_export_takes_precedence_over_one_in_floats(exported):
    pytest.importorskip("onnxruntime")
    (exported / "onnx").mkdir()
    (exported / "onnx" / "model.onnx").touch()
    write_onnx(exported / "onnx" / "model_quantized.onnx")
    assert [file.name for file in load_runner(str(exported)).files] == ["model_quantized.onnx"]


def test_a_model_in_training_mode_stays_in_it_and_runs_without_dropout(teacher, tokenizer):
    batch, _ = expected(tokenizer)
    run = PyTorchRunner(teacher.train(), tokenizer)
    assert torch.equal(run(batch), run(batch))
    assert teacher.training


def test_inputs_that_a_model_does_not_take_are_ignored(teacher, tokenizer):
    batch, _ = expected(tokenizer)
    run = PyTorchRunner(teacher, tokenizer)
    assert torch.equal(run({**batch, "idx": torch.arange(len(TEXTS))}), run(batch))


def test_a_bitsandbytes_model_is_smaller_and_close_to_the_original(tmp_path, teacher_folder, tokenizer, teacher):
    quantized = AutoModelForSequenceClassification.from_pretrained(
        teacher_folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["classifier"])
    )
    quantized.save_pretrained(tmp_path / "8bit")
    tokenizer.save_pretrained(tmp_path / "8bit")
    run, full = load_runner(str(tmp_path / "8bit")), load_runner(str(teacher_folder))
    assert run.backend == "bitsandbytes"
    assert run.megabytes < full.megabytes
    assert (run.dtype, full.dtype) == ("int8+float32", "float32")
    batch, _ = expected(tokenizer)
    assert 0 < (run(batch) - full(batch)).abs().max() < 0.5


@pytest.mark.parametrize(
    ("file", "package", "extra"),
    [("model.onnx", "onnxruntime", "onnx"), ("openvino_model.xml", "optimum.intel", "openvino")],
)
def test_a_missing_backend_is_refused_with_the_command_to_install_it(exported, monkeypatch, file, package, extra):
    (exported / file).touch()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(optional_dependencies, "find_spec", lambda name: None if name == package else find_spec(name))
    message = rf'{exported} needs {package}, which is not installed: pip install "tkd-hf\[{extra}\]"'
    with pytest.raises(InputError, match=message):
        load_runner(str(exported))


def test_a_damaged_export_is_refused_by_name(exported):
    pytest.importorskip("onnxruntime")
    (exported / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"onnxruntime cannot load .*model\.onnx"):
        load_runner(str(exported))


def test_an_export_outside_the_folder_of_its_model_is_refused(tmp_path):
    write_onnx(tmp_path / "a" / "b" / "c" / "model.onnx")
    with pytest.raises(InputError, match=r"no config\.json in .*keep an export within the folder of its model"):
        load_runner(str(tmp_path / "a" / "b" / "c" / "model.onnx"))


def test_a_model_that_does_not_exist_is_refused_with_a_hint(tmp_path):
    for name in ("nowhere", "no/model/onnx/model.onnx", str(tmp_path / "x")):
        with pytest.raises(InputError, match="check the name and the network"):
            load_runner(name)
