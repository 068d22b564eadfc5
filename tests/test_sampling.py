"""What every training has: resuming under old names of LayerNorm, and the attention that is fastest to train."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.profiler import profile
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, TrainerCallback, TrainingArguments

from tests.conftest import build_teacher
from tests.training import QUIET
from tkd_hf.sampling import BaseTrainer


@pytest.mark.parametrize("old_names", [True, False])
def test_layer_norms_are_resumed_whatever_their_file_called_them(tmp_path, features, tokenizer, old_names):
    build_teacher().save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    if old_names:
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        weights = {}
        for name, weight in load_file(path).items():
            for new, before in old.items():
                name = name.replace(new, before)
            weights[name] = weight
        save_file(weights, path, {"format": "pt"})
    ends = []
    for folder, checkpoint in (("whole", None), ("resumed", tmp_path / "whole/checkpoint-2")):
        fields = {**QUIET, "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 0.1}
        trainer = BaseTrainer(
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "model"),
            TrainingArguments(str(tmp_path / folder), per_device_train_batch_size=4, **fields),
            train_dataset=features,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        ends.append(dict(trainer.model.state_dict()))
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    assert set(load_file(tmp_path / "resumed/checkpoint-4/model.safetensors")) == set(ends[0])


@pytest.mark.parametrize(("bf16", "trained_with"), [(True, "eager"), (False, "sdpa")])
def test_bfloat16_on_a_cpu_is_trained_without_fused_attention(build, bf16, trained_with):
    trainer, seen = build(bf16=bf16, max_steps=1), []
    trainer.add_callback(Seen(seen))
    trainer.train()
    assert seen == [trained_with]
    assert trainer.model.config._attn_implementation == "sdpa"


def test_the_norm_of_the_gradient_is_computed_once_a_step(build):
    trainer = build(max_steps=2)
    weights = sum(weight.requires_grad for weight in trainer.model.parameters())
    with profile() as profiled:
        trainer.train()
    norms = sum(event.name == "aten::linalg_vector_norm" for event in profiled.events())
    assert weights < norms / 2 <= weights + 1  # that of each gradient, and of those
    assert trainer.gradient_norm.isfinite()


class Seen(TrainerCallback):
    def __init__(self, seen: list):
        self.seen = seen

    def on_step_end(self, args, state, control, model, **kwargs):
        self.seen.append(model.config._attn_implementation)
