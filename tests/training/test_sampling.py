"""Batches, their order, memory over long runs, and word embeddings of which only some rows are trained."""

import os

import psutil
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.profiler import profile
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, TrainerCallback, TrainingArguments

from tests.factories import QUIET, WORDS, arguments, build_teacher, student_of
from tkd_hf.training import trainer as trainer_module
from tkd_hf.training.base_trainer import BaseTrainer, EpochLengthGroupedSampler
from tkd_hf.training.rows_in_use import PartlyTrainedEmbedding, restore_word_embeddings, train_rows_in_use


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


UNUSED = [WORDS.index("[UNK]"), WORDS.index("[MASK]")]


def embedding_weight(model) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach().clone()


@pytest.mark.parametrize("max_grad_norm", [1e-3, 1e3])
def test_training_rows_in_use_gives_the_weights_of_training_all_rows(
    build, teacher, tmp_path, monkeypatch, max_grad_norm
):
    before, final_states = embedding_weight(student_of(teacher)), []
    for train_all in (False, True):
        trainer = build(args=arguments(tmp_path, max_grad_norm=max_grad_norm), model=student_of(teacher))
        with monkeypatch.context() as patch:
            if train_all:
                patch.setattr(trainer_module, "train_rows_in_use", lambda *_: None)
            trainer.train()
        shapes = {tuple(state["exp_avg"].shape) for state in trainer.optimizer.state.values()}
        assert ((len(WORDS) - 2, before.shape[1]) in shapes) is not train_all
        assert type(trainer.model.get_input_embeddings()) is torch.nn.Embedding
        final_states.append(dict(trainer.model.state_dict()))
    torch.testing.assert_close(*final_states, rtol=0, atol=1e-6)
    after = embedding_weight(trainer.model)
    torch.testing.assert_close(after[UNUSED], before[UNUSED], rtol=0, atol=0)
    assert not torch.equal(after, before)


def test_a_second_call_of_train_gives_the_weights_of_training_all_rows(build, teacher, tmp_path, monkeypatch):
    final_states = []
    for train_all in (False, True):
        trainer = build(args=arguments(tmp_path), model=student_of(teacher))
        with monkeypatch.context() as patch:
            if train_all:
                patch.setattr(trainer_module, "train_rows_in_use", lambda *_: None)
            trainer.train()
            trainer.train()
        final_states.append(dict(trainer.model.state_dict()))
    torch.testing.assert_close(*final_states, rtol=0, atol=1e-6)


def test_a_partly_trained_embedding_is_saved_loaded_and_evaluated_like_the_original():
    original, ids = torch.nn.Embedding(6, 2, padding_idx=0), torch.arange(6)
    embedding = PartlyTrainedEmbedding(original, torch.tensor([0, 2, 5]))
    with torch.no_grad():
        embedding.trained_rows += 1
    saved = embedding.state_dict()
    assert list(saved) == ["weight"]
    torch.testing.assert_close(embedding.eval()(ids), saved["weight"])  # evaluation may use all ids
    torch.testing.assert_close(original(ids), saved["weight"])
    target = PartlyTrainedEmbedding(torch.nn.Embedding(6, 2, padding_idx=0), torch.tensor([2, 3]))
    target.load_state_dict(saved)
    torch.testing.assert_close(target.train()(torch.tensor([2, 3])), saved["weight"][[2, 3]])


def test_trained_rows_survive_a_change_of_the_models_dtype(teacher, features):
    model = student_of(teacher)
    embedding = train_rows_in_use(model, features, 0, "adamw_torch", 0.0)
    model.double()
    with torch.no_grad():
        embedding.trained_rows += 1
    restore_word_embeddings(model)
    weight = model.get_input_embeddings().weight
    assert weight.dtype == torch.float64
    torch.testing.assert_close(weight[embedding.rows], embedding.trained_rows.detach())


def test_the_row_of_the_padding_token_gets_no_gradient():
    embedding = PartlyTrainedEmbedding(torch.nn.Embedding(6, 2, padding_idx=2), torch.tensor([2, 3]))
    embedding(torch.tensor([2, 3])).sum().backward()
    assert embedding.trained_rows.grad.tolist() == [[0, 0], [1, 1]]


def test_all_rows_are_trained_if_the_result_could_differ(teacher, features):
    def replacement(data=features, optimizer="adamw_torch", weight_decay=0.0, change=lambda model: None):
        model = student_of(teacher)
        change(model)
        embedding = train_rows_in_use(model, data, 0, optimizer, weight_decay)
        restore_word_embeddings(model)
        assert type(model.get_input_embeddings()) is torch.nn.Embedding
        return embedding

    assert replacement() is not None
    assert replacement(weight_decay=0.1) is None
    assert replacement(optimizer="adafactor") is None
    assert replacement(data=Dataset.from_dict({"input_ids": [list(range(len(WORDS)))]})) is None
    assert replacement(data=features.with_transform(lambda rows: rows)) is None
    assert replacement(data=[{"input_ids": [1]}]) is None
    assert replacement(change=lambda model: model.get_input_embeddings().requires_grad_(False)) is None
    assert replacement(change=lambda model: model.get_input_embeddings().register_forward_hook(print)) is None


def test_all_rows_are_trained_with_a_custom_collator(build, tokenizer, teacher, tmp_path):
    """Such a collator may produce token ids that the data does not contain."""
    trainer = build()
    trainer.data_collator = DataCollatorWithPadding(tokenizer)
    trainer.create_optimizer()
    assert type(trainer.model.get_input_embeddings()) is torch.nn.Embedding
