"""Every backend gives the logits of PyTorch, in the data set's order, and refuses values that are not finite."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import profile
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from tkd_hf import student_from_teacher
from tkd_hf.core import optional_dependencies
from tkd_hf.core.errors import InputError
from tkd_hf.data.tokenization import tokenize
from tkd_hf.inference.prediction import _batches, predict_logits
from tkd_hf.inference.runners import PyTorchRunner, load_runner

from ..factories import TEXTS, WORDS, build_tokenizer


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


def test_logits_are_in_the_order_of_the_data_set(teacher, tokenizer, examples):
    logits = predict_logits(PyTorchRunner(teacher, tokenizer), tokenize(examples, tokenizer), batch_size=3)
    for example_logits, text in zip(logits, TEXTS, strict=True):
        with torch.no_grad():
            expected = teacher(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(example_logits, expected, atol=1e-5)


@given(st.lists(st.integers(1, 60)), st.integers(1, 9), st.integers(0, 100))
def test_short_texts_get_larger_batches_within_the_token_budget(lengths, batch_size, token_budget):
    batches = list(_batches(np.array(lengths, int), batch_size, token_budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    batch_lengths = [[lengths[index] for index in batch] for batch in batches]
    assert [length for batch in batch_lengths for length in batch] == sorted(lengths, reverse=True)
    for batch in batch_lengths:
        assert batch_size <= len(batch) or batch is batch_lengths[-1]
        assert len(batch) * batch[0] <= batch_size * max(lengths)
        assert len(batch) <= batch_size or len(batch) * batch[0] <= token_budget
        another_fits = (len(batch) + 1) * batch[0] <= min(token_budget, batch_size * max(lengths))
        assert not another_fits or batch is batch_lengths[-1]


def test_batches_include_texts_without_tokens():
    assert list(_batches(np.zeros(3, int), 2, 10)) == [[0, 1], [2]]


def test_larger_batches_of_short_texts_give_the_same_logits(teacher, tokenizer, examples):
    features = tokenize(examples, tokenizer)
    runner = PyTorchRunner(teacher, tokenizer, bf16=False)
    expected = predict_logits(runner, features, batch_size=2)
    logits = predict_logits(runner, features, batch_size=2, token_budget=1000)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_token_classifiers_give_logits_of_real_tokens_only(tagger, tokenizer, tagged, side):
    tagger = student_from_teacher(tagger)  # a BERT counts positions from the left edge, padding or not
    logits = predict_logits(
        PyTorchRunner(tagger, build_tokenizer(padding_side=side)), tokenize(tagged, tokenizer), batch_size=3
    )
    for example_logits, text in zip(logits, TEXTS, strict=True):
        with torch.no_grad():
            expected = tagger(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(example_logits, expected, atol=1e-5)


def test_weights_are_cast_to_bfloat16_once_for_any_number_of_batches(teacher, tokenizer, examples):
    features = tokenize(examples, tokenizer)
    shape = list(teacher.get_submodule("bert.encoder.layer.0.intermediate.dense").weight.shape)
    for batch_size in (1, len(features)):
        with profile(record_shapes=True) as profiled:
            predict_logits(PyTorchRunner(teacher, tokenizer, bf16=True), features, batch_size)
        copies = [
            event for event in profiled.events() if event.name == "aten::copy_" and event.input_shapes[0] == shape
        ]
        assert len(copies) == teacher.config.num_hidden_layers
