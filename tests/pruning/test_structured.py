"""Masked and compacted models: they return the same logits, and the compacted one saves, loads, trains and exports."""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
)

from tkd_hf import TKDForSequenceClassification, student_from_teacher
from tkd_hf.pruning.structured import Gates, compact
from tkd_hf.pruning.units import Units

from ..factories import TEXTS, WORDS, build_teacher, logits_of_texts


def some_masks(config, *kinds) -> Units:
    """Return masks that remove units of these kinds unevenly over the layers."""
    generator = torch.Generator().manual_seed(0)

    def remove_some(mask):
        removed = torch.rand(len(mask), generator=generator) < 0.4
        removed[0] = False
        return ~removed

    masks = Units.full(config, True)
    if "heads" in kinds:
        masks.heads[0][1] = masks.heads[2][0] = False
    if "neurons" in kinds:
        masks.neurons = [remove_some(mask) for mask in masks.neurons]
    if "layers" in kinds:
        masks.layers[1] = False
    if "hidden" in kinds:
        masks.hidden = remove_some(masks.hidden)
    return masks


@pytest.mark.parametrize("kinds", ["heads", "neurons", "layers", "hidden", "heads neurons layers hidden"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_compacted_model_returns_the_logits_of_the_masked_model(teacher, tokenizer, kinds, attention):
    student = student_from_teacher(teacher)
    student.set_attn_implementation(attention)
    student.tkd.compute_all_tokens = True  # as gates do, so that logits agree to the last bit
    masks, unpruned = some_masks(student.config, *kinds.split()), logits_of_texts(student, tokenizer)
    gates = Gates(student)
    torch.testing.assert_close(logits_of_texts(student, tokenizer), unpruned, atol=0, rtol=0)
    gates.set(masks)
    masked, small = logits_of_texts(student, tokenizer), compact(student, masks)
    assert (masked - unpruned).abs().max() > 0.01
    torch.testing.assert_close(masked, logits_of_texts(small, tokenizer), atol=1e-5, rtol=1e-5)
    assert small.num_parameters() < student.num_parameters()
    assert small.config.to_dict() == masks.pruned_config(student.config).to_dict()
    gates.remove()
    torch.testing.assert_close(logits_of_texts(student, tokenizer), unpruned, atol=0, rtol=0)


def electra():
    torch.manual_seed(0)
    fields = {"vocab_size": len(WORDS), "hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 4}
    fields |= {"num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.5}
    return ElectraForSequenceClassification(ElectraConfig(**fields))


def distilbert():
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=4, n_heads=2, hidden_dim=32, initializer_range=0.5
    )
    return DistilBertForSequenceClassification(config)


@pytest.mark.parametrize("build", [electra, distilbert, lambda: build_teacher(kind=BertForMaskedLM)])
def test_every_architecture_can_be_masked_and_compacted(build, tokenizer):
    """The models cover factorised embeddings, no token types, other activations in the head, and tied embeddings."""
    student = student_from_teacher(build())
    masks = some_masks(student.config, "heads", "neurons", "layers", "hidden")
    gates = Gates(student)
    gates.set(masks)
    small = compact(student, masks)
    masked, compacted = logits_of_texts(student, tokenizer), logits_of_texts(small, tokenizer)
    if hasattr(small, "decoder"):  # logits at padding have no meaning
        real = tokenizer(TEXTS, padding=True, return_tensors="pt")["attention_mask"].bool()
        masked, compacted = masked[real], compacted[real]
        assert small.decoder.weight is small.get_input_embeddings().weight
    torch.testing.assert_close(masked, compacted, atol=1e-5, rtol=1e-5)


def test_recorded_hidden_states_of_a_masked_model_are_the_inputs_of_its_layers(teacher, tokenizer):
    """This also holds if the recording hooks are older than the gates, so objectives train on the masked states."""
    student = student_from_teacher(teacher)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    student(**batch, output_hidden_states=True)
    masks = some_masks(student.config, "layers")
    Gates(student).set(masks)
    with torch.no_grad():
        states = student(**batch, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[2], states[1])
    assert (states[3] - states[2]).abs().max() > 0.01


def test_masked_units_get_no_gradient(teacher, tokenizer):
    student = student_from_teacher(teacher)
    masks = some_masks(student.config, "heads", "neurons", "layers", "hidden")
    Gates(student).set(masks)
    student(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.square().sum().backward()
    layer, heads = student.tkd.layers[0], masks.heads[0].repeat_interleave(student.config.head_dim)
    for module in (layer.attention.query, layer.attention.value):
        assert not module.weight.grad[~heads].any()
        assert module.weight.grad[heads].any()
    assert not layer.feed_forward.output.weight.grad[:, ~masks.neurons[0]].any()
    assert not student.tkd.embeddings.word_embeddings.weight.grad[:, ~masks.hidden].any()
    assert not any(weight.grad.any() for weight in student.tkd.layers[1].parameters())


def test_compacted_model_saves_loads_and_trains_on(teacher, tokenizer, tmp_path):
    student = student_from_teacher(teacher)
    small = compact(student, some_masks(student.config, "heads", "neurons", "layers", "hidden"))
    small.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(loaded) is TKDForSequenceClassification
    torch.testing.assert_close(logits_of_texts(loaded, tokenizer), logits_of_texts(small, tokenizer), atol=0, rtol=0)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    optimizer, labels = torch.optim.SGD(loaded.parameters(), lr=1e-2), torch.tensor([0, 1] * 4)
    before = loaded(**batch, labels=labels).loss
    before.backward()
    optimizer.step()
    assert loaded(**batch, labels=labels).loss < before


@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised by torch during its own export
def test_compacted_model_exports_to_onnx(teacher, tokenizer, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    student = student_from_teacher(teacher)
    small = compact(student, some_masks(student.config, "heads", "neurons", "layers", "hidden"))
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    path = tmp_path / "model.onnx"
    torch.onnx.export(small.eval(), (), path, kwargs=batch, dynamo=True, verbose=False)
    (logits,) = runtime.InferenceSession(path).run(None, {name: value.numpy() for name, value in batch.items()})
    torch.testing.assert_close(torch.from_numpy(logits), logits_of_texts(small, tokenizer), atol=1e-4, rtol=1e-4)
