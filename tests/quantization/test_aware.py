"""Learning to be rounded: the rounding by hand, resumed training, what is left, and what it is good for."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, TrainerCallback

from tkd_hf import InputError
from tkd_hf.evaluation.runners import ONNXRunner
from tkd_hf.quantization import onnx
from tkd_hf.quantization.aware import (
    FakeQuantizedEmbeddingMixin,
    FakeQuantizedLinear,
    QuantizationAwareCallback,
    fake_quantize_embeddings,
    fake_quantize_input,
    fake_quantize_model,
    fake_quantize_weight,
    remove_fake_quantization,
    train_with_fake_quantization,
)
from tkd_hf.quantization.bitsandbytes import quantized_copy
from tkd_hf.stages.distill import QUANTIZATION_AWARE

from ..conftest import build_teacher
from ..training import logits_of_texts, losses, student_of, weights


EVERYWHERE = ("dynamic", "static", None)


@pytest.mark.parametrize("top", [1, 7, 64, 127])
def test_weights_are_rounded_as_integers_are(top):
    torch.manual_seed(0)
    weight = torch.randn(6, 10)
    weight[2] = 0  # a neuron that does nothing
    for row, found in zip(weight, fake_quantize_weight(weight, top), strict=True):
        scale = row.abs().max() / top or torch.tensor(1.0)
        integers = (row / scale).round()
        assert integers.abs().max() <= top
        torch.testing.assert_close(found, integers * scale)


def test_inputs_are_rounded_as_bytes_are():
    states = torch.tensor([[-60.0, -0.6, 0.0, 0.4, 1.6, 300.0]])
    found = fake_quantize_input(states, torch.tensor(-55.0), torch.tensor(200.0))  # 255 steps of 1
    assert found.tolist() == [[-55.0, -1.0, 0.0, 0.0, 2.0, 200.0]]
    one_sided = fake_quantize_input(states, torch.tensor(100.0), torch.tensor(255.0))  # 0 is always a step
    assert one_sided.tolist() == [[0.0, 0.0, 0.0, 0.0, 2.0, 255.0]]
    assert fake_quantize_input(torch.zeros(2, 2), *torch.zeros(2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert fake_quantize_input(states.bfloat16(), torch.tensor(-1.0), torch.tensor(2.0)).dtype == torch.bfloat16


def test_embeddings_are_rounded_as_half_bytes_are():
    """In blocks of 32 neighbours: -10 to 20 in steps of 2, then 0 to 7.5 in steps of 0.5, then nothing but zeros."""
    row = torch.zeros(72)
    row[:4] = torch.tensor([-10.0, 20.0, 3.9, 1.1])
    row[32:35] = torch.tensor([7.5, 0.3, 0.2])
    expected = torch.zeros(72)
    expected[:4] = torch.tensor([-10.0, 20.0, 4.0, 2.0])
    expected[32:35] = torch.tensor([7.5, 0.5, 0.0])
    found = fake_quantize_embeddings(torch.stack([row, -row])[None])
    assert torch.equal(found, torch.stack([expected, -expected])[None])
    assert fake_quantize_embeddings(row.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("rounding", [lambda weight: fake_quantize_weight(weight, 3), fake_quantize_embeddings])
def test_the_gradient_passes_the_rounding(rounding):
    weight = torch.randn(3, 40, requires_grad=True)
    factors = torch.randn(3, 40)
    (rounding(weight) * factors).sum().backward()
    torch.testing.assert_close(weight.grad, factors)


@pytest.mark.parametrize("int4_embeddings", [False, True])
@pytest.mark.parametrize("activations", EVERYWHERE)
def test_rounding_a_model_and_back(teacher, tokenizer, activations, int4_embeddings):
    model = student_of(teacher)
    before, state = logits_of_texts(model, tokenizer), copy.deepcopy(model.state_dict())
    layers = fake_quantize_model(model, 7, activations, int4_embeddings)
    assert len(layers) == 2 * 6 + 2
    assert model.state_dict().keys() == state.keys()  # checkpoints are those of an ordinary model
    assert not torch.allclose(logits_of_texts(model, tokenizer), before, atol=1e-2)
    remove_fake_quantization(model)
    for kind in (nn.Linear, nn.Embedding):
        assert {type(module) for module in model.modules() if isinstance(module, kind)} == {kind}
    assert torch.equal(logits_of_texts(model, tokenizer), before)


def test_8_bits_are_those_of_true_integers(teacher, tokenizer):
    """Rounded by hand into int8 and back, a student answers as it did in training."""
    model = student_of(teacher)
    true = copy.deepcopy(model)
    for module in true.modules():
        if isinstance(module, nn.Linear):
            scales = module.weight.detach().abs().amax(dim=1, keepdim=True) / 127
            module.weight.data = (module.weight.data / scales).round().to(torch.int8) * scales
    fake_quantize_model(model)
    torch.testing.assert_close(logits_of_texts(model, tokenizer), logits_of_texts(true, tokenizer), atol=1e-5, rtol=0)


def test_it_is_the_rounding_of_onnx(teacher, tokenizer, tmp_path):
    """Of weights, inputs and embeddings: the answers of the exported file, to the last digits."""
    pytest.importorskip("onnxruntime")
    model = student_of(teacher).eval()
    onnx.quantize(model, tokenizer, tmp_path, weights="int8-dynamic-int4-embeddings", calibration=list)
    exported = ONNXRunner(str(tmp_path), model.config, tokenizer, tmp_path / onnx.QUANTIZED_FILE)
    batch = tokenizer(["a gripping film, and a long one"], return_tensors="pt")
    fake_quantize_model(model, **QUANTIZATION_AWARE["dynamic-int4-embeddings"])
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, exported(dict(batch)), atol=1e-5, rtol=0)


@pytest.fixture
def aware(build, teacher):
    """Builds a trainer whose student learns to be rounded."""

    def make(top=7, activations=None, int4_embeddings=False, **fields):
        trainer = build(model=student_of(teacher, dropout=0.1), **fields)
        trainer.add_callback(QuantizationAwareCallback(trainer, top, activations, int4_embeddings))
        return trainer

    return make


@pytest.mark.parametrize("rounding", [{"activations": how} for how in EVERYWHERE] + [{"int4_embeddings": True}])
def test_resumed_training_ends_as_if_never_interrupted(aware, tmp_path, tokenizer, rounding):
    fields = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 4}
    whole = aware(**rounding, **fields)
    whole.train()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    loaded, loading = AutoModelForSequenceClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(loading.values())
    resumed = aware(**rounding, num_train_epochs=4)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(logits_of_texts(loaded, tokenizer), logits_of_texts(whole.model, tokenizer))
    rounding = (FakeQuantizedLinear, FakeQuantizedEmbeddingMixin)
    assert not [module for module in resumed.model.modules() if isinstance(module, rounding)]


def test_evaluation_in_training_is_of_the_rounded_student(aware):
    """And its ranges stay those of training."""
    trainer, seen = aware(activations="static"), {}

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


def test_what_is_left_is_saved_as_any_student(aware, tmp_path, tokenizer):
    trainer = aware()
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert torch.equal(logits_of_texts(loaded, tokenizer), logits_of_texts(trainer.model, tokenizer))
    assert logits_of_texts(quantized_copy(loaded), tokenizer).shape == (8, 2)


def test_it_makes_a_rounded_student_better(build, teacher, tokenizer):
    """At 3 bits, where rounding costs much: of two students trained as long, the one that knew of it keeps more."""

    def trained():
        fields = {"num_train_epochs": 30, "objectives": {"logits": 1.0}, "learning_rate": 2e-3}
        return build(model=student_of(teacher), **fields)

    unaware, aware = trained(), trained()
    losses(unaware)
    assert train_with_fake_quantization(aware, top=3) is aware
    wanted = logits_of_texts(teacher, tokenizer).log_softmax(-1)
    distances = []
    for trainer in (unaware, aware):
        fake_quantize_model(trainer.model, top=3)
        found = logits_of_texts(trainer.model, tokenizer).log_softmax(-1)
        distances.append(nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True).item())
    assert distances[1] < 0.3 * distances[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 128}, "top=128; weights are rounded to integers of 8 bits or fewer, up to 1 to 127"),
        ({"activations": "both"}, "activations='both' are unknown; there are None, 'dynamic' and 'static'"),
    ],
)
def test_mistakes(aware, arguments, message):
    with pytest.raises(InputError, match=message):
        aware(**arguments)


def test_a_quantized_student_is_refused(build, teacher):
    trainer = build()
    trainer.model = quantized_copy(build_teacher())
    with pytest.raises(InputError, match="is quantized already, by bitsandbytes"):
        QuantizationAwareCallback(trainer)


def test_a_checkpoint_of_another_run(build, aware, tmp_path):
    fields = {"save_strategy": "steps", "save_steps": 2}
    build(**fields).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(InputError, match=r"holds no quantization_aware\.json: it is of a run without rounding"):
        aware().train(resume_from_checkpoint=checkpoint)
    aware(top=7, **fields).train()
    with pytest.raises(
        InputError, match="is of a run with top=7, activations=None, int4_embeddings=False, this one has top=3"
    ):
        aware(top=3).train(resume_from_checkpoint=checkpoint)
