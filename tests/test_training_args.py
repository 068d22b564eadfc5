"""Defaults, and messages that name both the value and the way out."""

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
def test_bad_values_are_refused_with_the_way_out(fields, message):
    with pytest.raises(ValueError, match=message):
        arguments(**fields)


def test_objectives_come_as_json_from_a_command_line():
    assert arguments(objectives='{"logits": 0.5, "hard": 0.5}').objectives == {"logits": 0.5, "hard": 0.5}


def test_two_arguments_do_not_share_their_objectives():
    assert arguments().objectives is not arguments().objectives


def test_they_are_training_arguments_with_linear_warm_up():
    args = arguments(weight_decay=0.01)
    assert isinstance(args, TrainingArguments)
    assert (args.weight_decay, args.lr_scheduler_type, args.get_warmup_steps(100)) == (0.01, "linear", 10)


def test_bf16_where_the_device_has_it(monkeypatch):
    for available in (True, False):
        monkeypatch.setattr("tkd_hf.training_args.has_fast_bf16", lambda use_cpu, answer=available: answer)
        assert arguments().bf16 is available
        assert arguments(bf16=not available).bf16 is not available
        assert arguments(fp16=True).bf16 is False


def test_bf16_by_default_on_a_processor_that_has_it(monkeypatch):
    """Without a GPU, and without a word about it."""
    monkeypatch.setattr("tkd_hf.training_args.has_fast_bf16", lambda use_cpu: True)
    monkeypatch.setattr("torch.accelerator.is_available", lambda *args, **kwargs: False)
    args = FineTuningArguments("unused", report_to="none")
    assert (args.bf16, args.use_cpu) == (True, True)
