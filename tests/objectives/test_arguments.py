"""Training arguments: defaults, and error messages that name the value and what to write instead."""

import pytest
from transformers import TrainingArguments

from tkd_hf import DistillationTrainingArguments, FineTuningArguments


def arguments(**fields):
    return DistillationTrainingArguments("unused", report_to="none", use_cpu=True, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0}, r"temperature=0 must be positive; 1 does not"),
        ({"objectives": {"logit": 1.0}}, r"unknown objective 'logit' \(weight 1.0\); choose from logits, hard"),
        ({"objectives": {"logits": -1.0}}, r"objectives\['logits'\]=-1.0 is negative; a weight of 0"),
        ({"objectives": {"logits": 0.0}}, r"leave nothing to learn; give at least one .* a positive weight"),
        ({"objectives": "logits"}, r"objectives='logits' are not weights by name"),
        ({"final_objectives": {"soft": 1.0}}, r"unknown objective 'soft'"),
        ({"final_temperature": -1.0}, r"final_temperature=-1.0 must be positive"),
        ({"divergence": "kl"}, r"unknown divergence 'kl'; choose from forward_kl, reverse_kl, jensen_shannon, mse"),
        ({"top_k": 0}, r"top_k=0 must be at least 1"),
        ({"relation_heads": -2}, r"relation_heads=-2 must be at least 1"),
    ],
)
def test_invalid_values_are_refused_with_a_hint(fields, message):
    with pytest.raises(ValueError, match=message):
        arguments(**fields)


def test_objectives_may_be_a_json_string():
    assert arguments(objectives='{"logits": 0.5, "hard": 0.5}').objectives == {"logits": 0.5, "hard": 0.5}


def test_default_objectives_are_not_shared_between_instances():
    assert arguments().objectives is not arguments().objectives


def test_arguments_are_training_arguments_with_linear_warm_up():
    args = arguments(weight_decay=0.01)
    assert isinstance(args, TrainingArguments)
    assert (args.weight_decay, args.lr_scheduler_type, args.get_warmup_steps(100)) == (0.01, "linear", 10)


def test_bf16_defaults_to_what_the_device_supports(monkeypatch):
    for available in (True, False):
        monkeypatch.setattr("tkd_hf.objectives.arguments.has_fast_bf16", lambda use_cpu, available=available: available)
        assert arguments().bf16 is available
        assert arguments(bf16=not available).bf16 is not available
        assert arguments(fp16=True).bf16 is False


def test_bf16_is_the_default_on_a_cpu_that_supports_it(monkeypatch):
    """Without an accelerator, `use_cpu` need not be set by hand."""
    monkeypatch.setattr("tkd_hf.objectives.arguments.has_fast_bf16", lambda use_cpu: True)
    monkeypatch.setattr("torch.accelerator.is_available", lambda *args, **kwargs: False)
    args = FineTuningArguments("unused", report_to="none")
    assert (args.bf16, args.use_cpu) == (True, True)
