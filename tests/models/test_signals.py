"""Recorder: the hooks read the states that the model computes, with every attention implementation."""

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
)

from tkd_hf import TKDConfig, TKDModel
from tkd_hf.core.errors import InputError
from tkd_hf.models.signals import FEATURES, Recorder, attention_projections


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
