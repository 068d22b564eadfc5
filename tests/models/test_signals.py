"""Recorded features equal those of transformers, and a model skips tokens only if nobody looks at them."""

import logging
from functools import partial

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    TrainingArguments,
    pipeline,
)

from tkd_hf import (
    SoftLabels,
    TKDConfig,
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
)
from tkd_hf.core.errors import InputError
from tkd_hf.inference.runners import PyTorchRunner
from tkd_hf.models.layers_tkd import Packing
from tkd_hf.models.signals import FEATURES, Recorder, attention_projections
from tkd_hf.pruning.structured import Gates

from ..factories import TEXTS, student_of


PADDED = {"input_ids": torch.tensor([[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]]), "attention_mask": torch.ones(2, 5).long()}
PADDED["attention_mask"][1, 3:] = 0


def tiny(model_class=TKDForSequenceClassification):
    torch.manual_seed(0)
    shape = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    return model_class(TKDConfig(**shape, intermediate_size=16, initializer_range=0.5)).eval()


@pytest.fixture
def shortcuts(monkeypatch):
    """Collect the calls in which both the padding and, in the last layer, all tokens but the first are skipped."""
    calls, first_tokens = [], Packing.first_tokens

    def recorded(packing, states):
        calls.append(packing)
        return first_tokens(packing, states)

    monkeypatch.setattr(Packing, "first_tokens", recorded)
    return calls


@pytest.fixture
def warnings(caplog):
    """Return a function that returns the warnings so far; each is logged again in every test."""
    logging.Logger.warning_once.cache_clear()
    return lambda: [record.message for record in caplog.records if "forward hook" in record.message]


@pytest.mark.parametrize(
    "model_class", [TKDModel, TKDForSequenceClassification, TKDForTokenClassification, TKDForMaskedLM]
)
def test_hooks_on_every_module_see_the_shape_of_the_batch_with_the_switch_on(model_class, warnings):
    model, shapes = tiny(model_class), {}
    with torch.no_grad():
        expected = model(**PADDED)[0]

    def record_shape(name, module, inputs, output):
        shapes[name] = (output[0] if isinstance(output, tuple) else output).shape[:2]

    for part in (model.base_model.embeddings, *model.base_model.layers):
        for name, module in part.named_modules(prefix=str(id(part))):
            module.register_forward_hook(partial(record_shape, name))
    model.base_model.compute_all_tokens = True
    with torch.no_grad():
        outputs = model(**PADDED)[0]
    assert len(shapes) > 20
    assert set(shapes.values()) == {(2, 5)}
    assert not warnings()
    if model_class is not TKDForSequenceClassification:
        real = PADDED["attention_mask"].bool()
        outputs, expected = outputs[real], expected[real]
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)


def test_a_hook_without_the_switch_is_warned_about_once_and_changes_nothing(warnings, shortcuts):
    model, shapes = tiny(), []
    with torch.no_grad():
        expected = model(**PADDED).logits
        model.register_forward_hook(lambda *_: None)
        model.tkd.register_forward_hook(lambda *_: None)  # hooks on whole models see the batch in any case
        model(**PADDED)
        assert not warnings()
        model.tkd.layers[0].register_forward_hook(lambda layer, inputs, output: shapes.append(output.shape))
        for _ in range(2):
            assert torch.equal(model(**PADDED).logits, expected)
    assert shapes == [(1, 8, 8), (1, 8, 8)]
    assert len(shortcuts) == 4
    (warning,) = warnings()
    assert warning.startswith("a TKDLayer inside TKDModel")
    assert "set model.base_model.compute_all_tokens = True" in warning


@pytest.mark.parametrize("outputs", ["output_hidden_states", "output_attentions"])
def test_requested_outputs_need_no_switch_and_do_not_slow_down_later_calls(outputs, warnings, shortcuts):
    model = tiny()
    model.set_attn_implementation("eager")
    plain = model(**PADDED).logits
    recorded = model(**PADDED, **{outputs: True})
    torch.testing.assert_close(recorded.logits, plain, rtol=0, atol=1e-5)
    assert len(shortcuts) == 1
    assert torch.equal(model(**PADDED).logits, plain)
    setattr(model.config, outputs, True)
    model(**PADDED)
    assert len(shortcuts) == 2
    assert not warnings()


@pytest.mark.parametrize("path", ["train", "evaluate", "label", "run", "pipeline"])
def test_every_way_to_run_a_classifier_skips_tokens(path, build, teacher, tokenizer, features, tmp_path, shortcuts):
    student = student_of(teacher)
    if path in ("train", "evaluate"):
        trainer = build(cached=True, model=student)
        shortcuts.clear()  # soft labels were computed
        getattr(trainer, path)()
    elif path == "label":
        SoftLabels.compute(student, tokenizer, features)
    elif path == "run":
        PyTorchRunner(student, tokenizer)(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    else:
        student.save_pretrained(tmp_path / "student")
        tokenizer.save_pretrained(tmp_path / "student")
        pipeline("text-classification", str(tmp_path / "student"))(TEXTS, batch_size=4)
    assert shortcuts


def test_an_exported_graph_computes_the_last_layer_for_one_token():
    program = torch.export.export(tiny(), (), PADDED)
    shapes = [node.meta["val"].shape[:2] for node in program.graph.nodes if node.target is torch.ops.aten.gelu.default]
    assert shapes == [(2, 5), (2, 1)]  # one GELU per layer


def test_recorder_and_gates_compute_every_token_and_restore_the_switch(shortcuts):
    model = tiny()
    record = Recorder(model, ["queries"])
    signals, _ = record(model, PADDED)
    assert [query.shape for query in signals.queries] == [(2, 5, 8)] * 2
    assert not shortcuts
    gates = Gates(model)
    record(model, PADDED)
    model(**PADDED)
    assert not shortcuts
    gates.remove()
    model(**PADDED)
    assert len(shortcuts) == 1


# newer versions of transformers renamed the option and warn about the old name
IS_RENAMED = hasattr(TrainingArguments, "activation_checkpointing")
CHECKPOINTING = "activation_checkpointing" if IS_RENAMED else "gradient_checkpointing"


@pytest.mark.parametrize("option", [{"neftune_noise_alpha": 5.0}, {CHECKPOINTING: True}])
def test_training_options_that_install_hooks_compute_every_token(option, build, shortcuts, warnings):
    """The noise of NEFTune depends on the shape of the batch, and dropout on the number of elements."""
    trainer = build(cached=True, **option)
    shortcuts.clear()
    trainer.train()
    assert not shortcuts
    trainer.evaluate()
    assert shortcuts
    assert not warnings()


SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 20}
CONFIGS = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE),
    "electra": ElectraConfig(**SHAPE, embedding_size=8),
    "distilbert": DistilBertConfig(dim=16, n_layers=3, n_heads=2, hidden_dim=32, vocab_size=20),
    "tkd": TKDConfig(**SHAPE),
}
INPUTS = {
    "input_ids": torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIGS[request.param]).eval()


def test_recorded_queries_and_keys_give_the_models_own_attention(model):
    """softmax(q·k/√d) of the recorded states equals the attention probabilities that the model returns."""
    model.set_attn_implementation("eager")
    signals, outputs = Recorder(model, ["queries", "keys"])(model, INPUTS | {"output_attentions": True})
    mask = INPUTS["attention_mask"][:, None, None, :].bool()
    for query, key, attention in zip(signals.queries, signals.keys, outputs.attentions, strict=True):
        query, key = (states.unflatten(-1, (2, 8)).transpose(1, 2) for states in (query, key))
        scores = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(~mask, -torch.inf)
        torch.testing.assert_close(scores.softmax(-1), attention)


def test_recording_with_sdpa_is_complete_and_does_not_change_the_outputs(model):
    plain = model(**INPUTS)
    signals, outputs = Recorder(model, FEATURES)(model, INPUTS)
    real = INPUTS["attention_mask"].bool()  # at padding, TKD returns 0 unless its hidden states are recorded
    torch.testing.assert_close(outputs.last_hidden_state[real], plain.last_hidden_state[real])
    torch.testing.assert_close(signals.hidden_states[-1][real], plain.last_hidden_state[real])
    assert [len(getattr(signals, name)) for name in FEATURES] == [4, 3, 3, 3]
    assert not any(module._forward_hooks for module in model.modules() if type(module) is torch.nn.Linear)


def test_hooks_are_removed_after_an_error(model):
    with pytest.raises(Exception, match=r"."):
        Recorder(model, ["queries"])(model, {"input_ids": torch.tensor([[10**6]])})
    assert not any(module._forward_hooks for module in model.modules() if type(module) is torch.nn.Linear)


def test_gradients_flow_through_recorded_states():
    torch.manual_seed(0)
    model = TKDModel(TKDConfig(**SHAPE))
    signals, _ = Recorder(model, ["values"])(model, INPUTS)
    signals.values[1].sum().backward()
    assert model.layers[1].attention.value.weight.grad.abs().sum() > 0
    assert model.layers[2].attention.value.weight.grad is None


def test_gradient_checkpointing_does_not_change_gradients_of_recorded_states():
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = TKDModel(TKDConfig(**SHAPE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
        if checkpointing:
            name = "activation_checkpointing_enable"  # renamed within the supported range
            getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")()
        signals, _ = Recorder(model, FEATURES)(model, INPUTS)
        sum(states.square().sum() for name in FEATURES for states in getattr(signals, name)).backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for plain_grad, checkpointed_grad in zip(*grads, strict=True):
        torch.testing.assert_close(plain_grad, checkpointed_grad)


def test_attention_of_an_unknown_architecture_is_refused_and_the_known_ones_named():
    model = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
    with pytest.raises(
        InputError, match=r"cannot read the attention of GPT2Model.* bert, roberta, distilbert, electra"
    ):
        attention_projections(model)
    assert Recorder(model, ["hidden_states"]).features == {"hidden_states"}
