"""BaseTrainer: resuming, the order of examples, the attention implementation, and memory over long runs."""

import os

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.profiler import profile
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, TrainerCallback, TrainingArguments

from tests.conftest import build_teacher
from tests.factories import QUIET, arguments
from tkd_hf.training.base_trainer import BaseTrainer, EpochLengthGroupedSampler


MAX_GROWTH = 30  # megabytes; allocators keep some memory, but leaking a batch per step would take ten times as much


class AttentionObserver(TrainerCallback):
    """Collect the attention implementation of every step."""

    def __init__(self):
        self.implementations = []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.implementations.append(model.config._attn_implementation)


class ResourceObserver(TrainerCallback):
    """Measure the resources of this process at the end of one step."""

    def __init__(self, step: int):
        self.step, self.resources = step, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.resources = resources_in_use()


def resources_in_use() -> tuple[float, int]:
    """Return the memory in megabytes and the number of open files of this process."""
    process = psutil.Process(os.getpid())
    return process.memory_info().rss / 1e6, process.num_fds()


def test_grouping_by_length_visits_every_example_in_an_order_fixed_by_the_epoch():
    lengths = [i % 7 + 1 for i in range(500)]
    sampler = EpochLengthGroupedSampler(4, lengths, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    repeated = list(sampler)
    assert first == repeated != second
    assert sorted(first) == sorted(second) == list(range(500))


@pytest.mark.parametrize("old_names", [True, False])
def test_resuming_restores_layer_norms_that_the_model_file_called_gamma_and_beta(
    tmp_path, features, tokenizer, old_names
):
    build_teacher().save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    if old_names:
        weights = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
            for name, weight in load_file(path).items()
        }
        save_file(weights, path, {"format": "pt"})
    final_states = []
    for folder, checkpoint in (("uninterrupted", None), ("resumed", tmp_path / "uninterrupted/checkpoint-2")):
        fields = {**QUIET, "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 0.1}
        trainer = BaseTrainer(
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "model"),
            TrainingArguments(str(tmp_path / folder), per_device_train_batch_size=4, **fields),
            train_dataset=features,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        final_states.append(dict(trainer.model.state_dict()))
    torch.testing.assert_close(*final_states, rtol=0, atol=0)
    assert set(load_file(tmp_path / "resumed/checkpoint-4/model.safetensors")) == set(final_states[0])


@pytest.mark.parametrize(("bf16", "implementation"), [(True, "eager"), (False, "sdpa")])
def test_bf16_training_on_a_cpu_uses_unfused_attention(build, bf16, implementation):
    trainer, observer = build(bf16=bf16, max_steps=1), AttentionObserver()
    trainer.add_callback(observer)
    trainer.train()
    assert observer.implementations == [implementation]
    assert trainer.model.config._attn_implementation == "sdpa"


def test_the_gradient_norm_is_computed_once_per_step(build):
    trainer = build(max_steps=2)
    gradients = sum(weight.requires_grad for weight in trainer.model.parameters())
    with profile() as profiled:
        trainer.train()
    norms = sum(event.name == "aten::linalg_vector_norm" for event in profiled.events())
    assert gradients < norms / 2 <= gradients + 1  # per step: one norm per gradient, and the norm of these norms
    assert trainer.gradient_norm.isfinite()


@pytest.mark.slow
def test_memory_and_open_files_do_not_grow_over_2000_steps(build, tmp_path):
    """The log has an entry every ten steps; every checkpoint contains all entries up to its step."""
    fields = {"max_steps": 2000, "logging_steps": 10, "save_strategy": "steps", "save_steps": 200}
    trainer = build(args=arguments(tmp_path, **fields, save_total_limit=1), cached=True)
    observer = ResourceObserver(step=500)
    trainer.add_callback(observer)
    trainer.train()
    memory_before, files_before = observer.resources
    memory_after, files_after = resources_in_use()
    assert memory_after - memory_before < MAX_GROWTH
    assert files_after <= files_before + 2
    assert [folder.name for folder in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2000"]
    assert (tmp_path / "run" / "checkpoint-2000" / "trainer_state.json").stat().st_size < 200_000


@pytest.mark.slow
def test_memory_and_open_files_do_not_grow_over_200_evaluations(build):
    trainer = build(cached=True)
    for _ in range(20):
        trainer.evaluate()
    memory_before, files_before = resources_in_use()
    for _ in range(180):
        trainer.evaluate()
    memory_after, files_after = resources_in_use()
    assert memory_after - memory_before < MAX_GROWTH
    assert files_after <= files_before + 2
