"""Fake quantization and 4-bit embeddings: rounding by hand, training, resuming, and agreement with ONNX."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, TrainerCallback

from tkd_hf import InputError
from tkd_hf.commands.distill import QUANTIZATION_AWARE
from tkd_hf.models.quantized import quantized_copy
from tkd_hf.quantization.int4 import dequantized_rows, pack_lookup_tables, pack_table
from tkd_hf.quantization.onnx import ONNX, QUANTIZED_FILE, ONNXRunner
from tkd_hf.training.quantization_aware import (
    FakeQuantizedEmbedding,
    FakeQuantizedLinear,
    QuantizationAwareCallback,
    fake_quantize_embeddings,
    fake_quantize_input,
    fake_quantize_model,
    fake_quantize_weight,
    remove_fake_quantization,
    train_with_fake_quantization,
)

from ..factories import build_teacher, logits_of_texts, losses, student_of, weights


ACTIVATIONS = ("dynamic", "static", None)


@pytest.mark.parametrize("top", [1, 7, 64, 127])
def test_weights_are_rounded_to_integers_times_the_scale_of_their_row(top):
    torch.manual_seed(0)
    weight = torch.randn(6, 10)
    weight[2] = 0  # a neuron without inputs
    for row, rounded in zip(weight, fake_quantize_weight(weight, top), strict=True):
        scale = row.abs().max() / top or torch.tensor(1.0)
        integers = (row / scale).round()
        assert integers.abs().max() <= top
        torch.testing.assert_close(rounded, integers * scale)


def test_inputs_are_rounded_to_256_steps_and_clipped_to_their_range():
    states = torch.tensor([[-60.0, -0.6, 0.0, 0.4, 1.6, 300.0]])
    rounded = fake_quantize_input(states, torch.tensor(-55.0), torch.tensor(200.0))  # 255 steps of 1
    assert rounded.tolist() == [[-55.0, -1.0, 0.0, 0.0, 2.0, 200.0]]
    one_sided = fake_quantize_input(states, torch.tensor(100.0), torch.tensor(255.0))  # the range is widened to 0
    assert one_sided.tolist() == [[0.0, 0.0, 0.0, 0.0, 2.0, 255.0]]
    assert fake_quantize_input(torch.zeros(2, 2), *torch.zeros(2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert fake_quantize_input(states.bfloat16(), torch.tensor(-1.0), torch.tensor(2.0)).dtype == torch.bfloat16


def test_embeddings_are_rounded_to_16_steps_per_block():
    """The three blocks have steps of 2 from -10 to 20, steps of 0.5 from 0 to 7.5, and only zeros."""
    row = torch.zeros(72)
    row[:4] = torch.tensor([-10.0, 20.0, 3.9, 1.1])
    row[32:35] = torch.tensor([7.5, 0.3, 0.2])
    expected = torch.zeros(72)
    expected[:4] = torch.tensor([-10.0, 20.0, 4.0, 2.0])
    expected[32:35] = torch.tensor([7.5, 0.5, 0.0])
    rounded = fake_quantize_embeddings(torch.stack([row, -row])[None])
    assert torch.equal(rounded, torch.stack([expected, -expected])[None])
    assert fake_quantize_embeddings(row.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("rounding", [lambda weight: fake_quantize_weight(weight, 3), fake_quantize_embeddings])
def test_gradient_passes_the_rounding_unchanged(rounding):
    weight = torch.randn(3, 40, requires_grad=True)
    factors = torch.randn(3, 40)
    (rounding(weight) * factors).sum().backward()
    torch.testing.assert_close(weight.grad, factors)


@pytest.mark.parametrize("int4_embeddings", [False, True])
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_fake_quantization_changes_logits_and_can_be_removed(teacher, tokenizer, activations, int4_embeddings):
    model = student_of(teacher)
    before, state = logits_of_texts(model, tokenizer), copy.deepcopy(model.state_dict())
    layers = fake_quantize_model(model, 7, activations, int4_embeddings)
    assert len(layers) == 2 * 6 + 2
    assert model.state_dict().keys() == state.keys()  # so checkpoints are those of an ordinary model
    assert not torch.allclose(logits_of_texts(model, tokenizer), before, atol=1e-2)
    remove_fake_quantization(model)
    for kind in (nn.Linear, nn.Embedding):
        assert {type(module) for module in model.modules() if isinstance(module, kind)} == {kind}
    assert torch.equal(logits_of_texts(model, tokenizer), before)


def test_fake_quantized_logits_equal_those_of_int8_weights(teacher, tokenizer):
    model = student_of(teacher)
    int8_model = copy.deepcopy(model)
    for module in int8_model.modules():
        if isinstance(module, nn.Linear):
            scales = module.weight.detach().abs().amax(dim=1, keepdim=True) / 127
            module.weight.data = (module.weight.data / scales).round().to(torch.int8) * scales
    fake_quantize_model(model)
    expected = logits_of_texts(int8_model, tokenizer)
    torch.testing.assert_close(logits_of_texts(model, tokenizer), expected, atol=1e-5, rtol=0)


def test_fake_quantized_logits_equal_those_of_the_onnx_file(teacher, tokenizer, tmp_path):
    """Weights, inputs and embeddings are rounded as onnxruntime rounds them."""
    pytest.importorskip("onnxruntime")
    model = student_of(teacher).eval()
    ONNX().quantize(model, tokenizer, tmp_path, weights="int8-dynamic-int4-embeddings", calibration=list)
    exported = ONNXRunner(str(tmp_path), model.config, tokenizer, tmp_path / QUANTIZED_FILE)
    batch = tokenizer(["a gripping film, and a long one"], return_tensors="pt")
    fake_quantize_model(model, **QUANTIZATION_AWARE["dynamic-int4-embeddings"])
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, exported(dict(batch)), atol=1e-5, rtol=0)


@pytest.fixture
def build_aware_trainer(build, teacher):
    """Build a trainer with a `QuantizationAwareCallback`."""

    def build_with_callback(top=7, activations=None, int4_embeddings=False, **fields):
        trainer = build(model=student_of(teacher, dropout=0.1), **fields)
        trainer.add_callback(QuantizationAwareCallback(trainer, top, activations, int4_embeddings))
        return trainer

    return build_with_callback


@pytest.mark.parametrize(
    "rounding", [{"activations": activations} for activations in ACTIVATIONS] + [{"int4_embeddings": True}]
)
def test_resumed_training_ends_with_the_same_weights(build_aware_trainer, tmp_path, tokenizer, rounding):
    fields = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 4}
    uninterrupted = build_aware_trainer(**rounding, **fields)
    uninterrupted.train()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    loaded, loading = AutoModelForSequenceClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(loading.values())
    resumed = build_aware_trainer(**rounding, num_train_epochs=4)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(weights(resumed), weights(uninterrupted))
    assert not torch.equal(logits_of_texts(loaded, tokenizer), logits_of_texts(uninterrupted.model, tokenizer))
    fake_quantized = (FakeQuantizedLinear, FakeQuantizedEmbedding)
    assert not [module for module in resumed.model.modules() if isinstance(module, fake_quantized)]


def test_evaluation_in_training_measures_the_rounded_student_and_keeps_its_ranges(build_aware_trainer):
    trainer, seen = build_aware_trainer(activations="static"), {}

    class Evaluate(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            layers = [module for module in trainer.model.modules() if isinstance(module, FakeQuantizedLinear)]
            before = [layer.range.tolist() for layer in layers]
            seen["rounded"] = trainer.evaluate()["eval_loss"]
            seen["layers"] = len(layers)
            assert [layer.range.tolist() for layer in layers] == before

    trainer.add_callback(Evaluate())
    trainer.train()
    assert seen["layers"] == 14
    assert trainer.evaluate()["eval_loss"] != pytest.approx(seen["rounded"], rel=1e-3)


def test_trained_student_is_saved_in_floats_and_can_be_quantized(build_aware_trainer, tmp_path, tokenizer):
    trainer = build_aware_trainer()
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert torch.equal(logits_of_texts(loaded, tokenizer), logits_of_texts(trainer.model, tokenizer))
    assert logits_of_texts(quantized_copy(loaded), tokenizer).shape == (8, 2)


def test_aware_training_brings_the_rounded_student_closer_to_its_teacher(build, teacher, tokenizer):
    """At 3 bits rounding costs much. Two students train for the same time, one of them with fake quantization."""

    def build_trainer():
        fields = {"num_train_epochs": 30, "objectives": {"logits": 1.0}, "learning_rate": 2e-3}
        return build(model=student_of(teacher), **fields)

    unaware, aware = build_trainer(), build_trainer()
    losses(unaware)
    assert train_with_fake_quantization(aware, top=3) is aware
    expected = logits_of_texts(teacher, tokenizer).log_softmax(-1)
    distances = []
    for trainer in (unaware, aware):
        fake_quantize_model(trainer.model, top=3)
        predicted = logits_of_texts(trainer.model, tokenizer).log_softmax(-1)
        distances.append(nn.functional.kl_div(predicted, expected, reduction="batchmean", log_target=True).item())
    assert distances[1] < 0.3 * distances[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 128}, "top=128 does not fit into 8 bits .* from 1 to 127"),
        ({"activations": "both"}, "unknown activations='both'; choose None, 'dynamic' or 'static'"),
    ],
)
def test_invalid_settings_are_refused(build_aware_trainer, arguments, message):
    with pytest.raises(InputError, match=message):
        build_aware_trainer(**arguments)


def test_quantized_student_is_refused(build, teacher):
    trainer = build()
    trainer.model = quantized_copy(build_teacher())
    with pytest.raises(InputError, match="is quantized already, by bitsandbytes"):
        QuantizationAwareCallback(trainer)


def test_resuming_with_other_settings_or_without_them_is_refused(build, build_aware_trainer, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 2}
    build(**fields).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(InputError, match=r"has no quantization_aware\.json.* from a run without"):
        build_aware_trainer().train(resume_from_checkpoint=checkpoint)
    build_aware_trainer(top=7, **fields).train()
    with pytest.raises(
        InputError, match="from a run with top=7, activations=None, int4_embeddings=False, but this run has top=3"
    ):
        build_aware_trainer(top=3).train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 64, 65, 384])
def test_onnx_graph_looks_up_4_bit_rows_as_they_were_rounded(width):
    """Rows have one block or several, and the last block may be shorter. The numbers agree to the last bit."""
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    torch.manual_seed(0)
    table = torch.randn(9, width) * torch.logspace(-9, 3, 9)[:, None]
    table[4] = 0
    ids_info = helper.make_tensor_value_info("ids", TensorProto.INT64, ["a", "b"])
    rows_info = helper.make_tensor_value_info("rows", TensorProto.FLOAT, None)
    lookup = helper.make_node("Gather", ["table", "ids"], ["rows"], "words")
    tensors = [numpy_helper.from_array(table.numpy(), "table")]
    graph = helper.make_graph([lookup], "lookup", [ids_info], [rows_info], tensors)
    names = pack_lookup_tables(graph, ["words"])
    assert {node.name for node in graph.node if node.op_type == "Gather"} == {*names}
    assert "table" not in {tensor.name for tensor in graph.initializer}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    ids = np.array([[0, 8, 4], [3, 3, 7]])
    (rows,) = runtime.InferenceSession(model.SerializeToString()).run(None, {"ids": ids})
    assert np.array_equal(rows, dequantized_rows(table)[ids].numpy())


def test_4_bit_table_is_packed_as_computed_by_hand():
    """The lower bits hold the first half of a row's steps and zeros, the upper bits the second half."""
    table = torch.tensor([[-1.0, 0.0, 14.0], [0.0, 7.5, 3.0]])
    rows, scales = pack_table(table)
    # The first row has the steps 0, 1, 15 and the zero 1; the second the steps 0, 15, 6 and the zero 0.
    assert rows.tolist() == [[0 | 15 << 4, 1 | 1 << 4], [0 | 6 << 4, 15 | 0 << 4]]
    assert scales.tolist() == [[1.0], [0.5]]
    assert scales.dtype == torch.float16
    assert torch.equal(dequantized_rows(table), table)
