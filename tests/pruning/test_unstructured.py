"""Unstructured pruning: which weights become zero, resuming, checkpoints, the report, and NNCF's choice of weights."""

import importlib.util
import logging
import zlib

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, TrainerCallback

from tkd_hf.core.errors import InputError
from tkd_hf.pruning.arguments import Schedule
from tkd_hf.pruning.nncf import NNCFMasks
from tkd_hf.pruning.unstructured import (
    ElementPruner,
    ElementPruningCallback,
    Sparsity,
    magnitude_masks,
    prunable_weights,
    sparsity_report,
)

from ..factories import TEXTS, build_teacher, logits_of_texts, student_of, weights


needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="NNCF is not installed")
WEIGHTS = {
    "one": torch.tensor([[4.0, -1.0, 2.0, 3.0], [-8.0, 5.0, 6.0, 7.0]]),
    "two": torch.tensor([[0.5, 9.0, -0.1, 10.0]]),
}


def to_lists(masks):
    return {name: mask.int().tolist() for name, mask in masks.items()}


def test_global_scope_ranks_all_weights_together():
    # The six smallest of the twelve magnitudes are 0.1, 0.5, 1, 2, 3 and 4.
    expected = {"one": [[0, 0, 0, 0], [1, 1, 1, 1]], "two": [[0, 1, 0, 1]]}
    assert to_lists(magnitude_masks(WEIGHTS, Sparsity(0.5))) == expected


def test_layer_scope_prunes_the_same_share_of_each_matrix():
    expected = {"one": [[0, 0, 0, 0], [1, 1, 1, 1]], "two": [[0, 1, 0, 1]]}
    assert to_lists(magnitude_masks(WEIGHTS, Sparsity(0.5, "layer"))) == expected
    expected = {"one": [[1, 0, 0, 1], [1, 1, 1, 1]], "two": [[1, 1, 0, 1]]}
    assert to_lists(magnitude_masks(WEIGHTS, Sparsity(0.25, "layer"))) == expected
    expected = {"one": [[1, 0, 1, 1], [1, 1, 1, 1]], "two": [[0, 1, 0, 1]]}
    assert to_lists(magnitude_masks(WEIGHTS, Sparsity(0.25))) == expected


def test_pattern_keeps_the_largest_weights_of_each_group():
    expected = {"one": [[1, 0, 0, 1], [1, 0, 0, 1]], "two": [[0, 1, 0, 1]]}
    assert to_lists(magnitude_masks(WEIGHTS, Sparsity(pattern="2:4"))) == expected
    expected = {"one": [[1, 0, 0, 1], [1, 0, 0, 1]], "two": [[0, 1, 0, 1]]}
    assert to_lists(magnitude_masks(WEIGHTS, Sparsity(pattern="1:2"))) == expected
    # On the way to the target, each group loses whole weights.
    for share, zeros in ((0.0, 0), (0.49, 0), (0.5, 3), (0.99, 3), (1.0, 6)):
        masks = magnitude_masks(WEIGHTS, Sparsity(pattern="2:4"), share)
        assert sum(int((~mask).sum()) for mask in masks.values()) == zeros


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, 3.5]), min_size=1, max_size=40), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_share_of_zeros_is_exact_even_among_equal_weights(values, share):
    weight = torch.tensor([values])
    mask = magnitude_masks({"w": weight}, Sparsity(share))["w"]
    assert int((~mask).sum()) == round(share * len(values))
    pruned, remaining = weight[~mask].abs(), weight[mask].abs()
    assert not len(pruned) or not len(remaining) or pruned.max() <= remaining.min()


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_later_prunings_add_to_earlier_ones(scope):
    model = build_teacher()
    pruner = ElementPruner(model, Sparsity(0.8, scope))
    before = {name: torch.zeros_like(mask) for name, mask in pruner.masks.items()}
    for share in (0.25, 0.5, 1.0):
        pruner.prune(share)
        assert all((before[name] & mask).sum() == 0 for name, mask in pruner.masks.items())
        before = {name: ~mask for name, mask in pruner.masks.items()}
        assert sparsity_report(model).share == pytest.approx(0.8 * share, abs=1e-3)


@pytest.mark.parametrize("build", [build_teacher, lambda: student_of(build_teacher())])
def test_embeddings_pooler_and_head_are_not_pruned(build):
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ElementPruner(model, Sparsity(0.9)).prune()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == set(prunable_weights(model))
    assert len(changed) == 6 * model.config.num_hidden_layers


@pytest.mark.parametrize("sparsity", [Sparsity(0.7), Sparsity(0.7, "layer"), Sparsity(pattern="2:4")])
def test_run_resumed_between_prunings_ends_with_the_same_weights_and_masks(build, tmp_path, teacher, sparsity):
    def build_pruning_trainer():
        trainer = build(model=student_of(teacher, dropout=0.1), save_strategy="steps", save_steps=1, num_train_epochs=4)
        pruner = ElementPruner(trainer.model, sparsity)
        trainer.add_callback(ElementPruningCallback(trainer, pruner, Schedule("linear", num_prunings=4, end=0.75)))
        return trainer, pruner

    uninterrupted, pruner = build_pruning_trainer()
    uninterrupted.train()
    assert uninterrupted.state.global_step == 8
    assert sparsity_report(uninterrupted.model).share == pytest.approx(sparsity.target, abs=1e-3)

    resumed, resumed_pruner = build_pruning_trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    torch.testing.assert_close(weights(uninterrupted), weights(resumed), atol=0, rtol=0)
    assert all(torch.equal(pruner.masks[name], mask) for name, mask in resumed_pruner.masks.items())


def test_every_checkpoint_and_the_saved_model_contain_the_zeros(build, tmp_path, teacher):
    trainer = build(model=student_of(teacher), save_strategy="steps", save_steps=1)
    pruner = ElementPruner(trainer.model, Sparsity(0.5, "layer"))
    trainer.add_callback(ElementPruningCallback(trainer, pruner, Schedule("linear", num_prunings=2, end=0.5)))
    trainer.train()
    trainer.save_model()

    def shares(folder):
        saved = load_file(folder / "model.safetensors")
        return {round(float((saved[name] == 0).float().mean()), 3) for name in pruner.masks}

    run = tmp_path / "run"
    assert [shares(run / f"checkpoint-{step}") for step in (1, 2, 3, 4)] == [{0.25}, {0.5}, {0.5}, {0.5}]
    assert shares(run) == {0.5}
    loaded = AutoModelForSequenceClassification.from_pretrained(run)
    assert torch.equal(weights(trainer), torch.cat([weight.detach().flatten() for weight in loaded.parameters()]))
    assert sparsity_report(loaded).share == 0.5


def test_one_shot_schedule_prunes_at_the_start_and_the_other_weights_train(build, teacher):
    trainer = build(model=student_of(teacher))
    pruner = ElementPruner(trainer.model, Sparsity(0.5))
    before = {name: weight.detach().clone() for name, weight in pruner.weights.items()}
    trainer.add_callback(ElementPruningCallback(trainer, pruner, Schedule("one-shot")))
    trainer.train()
    expected = magnitude_masks(before, Sparsity(0.5))
    for name, weight in pruner.weights.items():
        assert torch.equal(weight != 0, expected[name])
        assert not torch.equal(weight[expected[name]], before[name][expected[name]])


def test_sparsity_report_counts_zeros_and_compressed_size():
    model = build_teacher()
    dense = sparsity_report(model)
    assert (dense.share, set(dense.layers.values())) == (0.0, {0.0})
    ElementPruner(model, Sparsity(0.9, "layer")).prune()
    sparse = sparsity_report(model)
    assert set(sparse.layers) == set(prunable_weights(model))
    assert all(share == pytest.approx(0.9, abs=2e-3) for share in sparse.layers.values())
    zeros = sum(int((weight == 0).sum()) for weight in model.parameters())
    assert sparse.share_of_model == zeros / model.num_parameters()
    assert sparse.megabytes == dense.megabytes == model.num_parameters() * 4 / 1e6
    saved = safetensors.torch.save({name: weight.detach() for name, weight in model.named_parameters()})
    assert sparse.megabytes_compressed == len(zlib.compress(saved)) / 1e6 < 0.6 * dense.megabytes_compressed
    assert "make nothing faster" in str(sparse)


def test_training_that_ends_early_warns_that_the_target_is_not_met(build, teacher, caplog):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    trainer = build(model=student_of(teacher))
    callback = ElementPruningCallback(
        trainer, ElementPruner(trainer.model, Sparsity(0.5)), Schedule("linear", num_prunings=4, end=1.0)
    )
    trainer.add_callback(callback)
    trainer.add_callback(Stop)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "training ended after 1 of 4 prunings, short of the target of 50 % zeros" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "share=None and pattern=None"),
        ({"share": 0.5, "pattern": "2:4"}, "share=0.5 and pattern=2:4"),
        ({"share": 1.0}, "share=1.0 of the weights"),
        ({"share": 0.5, "scope": "head"}, "scope 'head'; choose among global, layer"),
        ({"pattern": "4:2"}, "pattern='4:2' keeps 4 of 2"),
        ({"pattern": "half"}, "pattern='half' is not of the form N:M"),
    ],
)
def test_invalid_sparsity_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Sparsity(**fields)


def test_weights_masks_and_patterns_that_do_not_fit_the_model_are_refused(build, teacher):
    with pytest.raises(InputError, match=r"query.weight has 16 inputs, but .* a multiple of 3"):
        ElementPruner(teacher, Sparsity(pattern="2:3")).prune()
    with pytest.raises(InputError, match="no linear layers of floats"):
        ElementPruner(BertModel(BertConfig(num_hidden_layers=0)), Sparsity(0.5))
    state = ElementPruner(teacher, Sparsity(0.5)).state_dict()
    with pytest.raises(InputError, match="masks of 24 weights, but this run prunes 12"):
        ElementPruner(student_of(teacher), Sparsity(0.5)).load_state_dict(state)
    with pytest.raises(InputError, match="masks of 0 weights"):
        ElementPruner(teacher, Sparsity(0.5)).load_state_dict({"kept": {}})
    name = next(iter(state["masks"]))
    state["masks"][name] = state["masks"][name][:8]
    with pytest.raises(InputError, match="elements for a weight of 256"):
        ElementPruner(teacher, Sparsity(0.5)).load_state_dict(state)


def nncf_masks(model, tokenizer):
    return NNCFMasks(model, tokenizer(TEXTS[:2], padding=True, return_tensors="pt"))


@needs_nncf
def test_nncf_layer_scope_chooses_the_same_weights_as_magnitude(tokenizer):
    by_magnitude, by_nncf = build_teacher(), build_teacher()
    ElementPruner(by_magnitude, Sparsity(0.5, "layer")).prune()
    ElementPruner(by_nncf, Sparsity(0.5, "layer"), nncf_masks(by_nncf, tokenizer)).prune()
    torch.testing.assert_close(logits_of_texts(by_magnitude, tokenizer), logits_of_texts(by_nncf, tokenizer))
    assert set(sparsity_report(by_nncf).layers.values()) == {0.5}


@needs_nncf
def test_nncf_global_scope_divides_magnitudes_by_the_norm_of_the_matrix(tokenizer):
    model = build_teacher()
    pruned = ElementPruner(model, Sparsity(0.5)).weights
    before = {name: weight.detach().clone() for name, weight in pruned.items()}
    unpruned = {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in pruned}
    ElementPruner(model, Sparsity(0.6), nncf_masks(model, tokenizer)).prune()

    relative_sizes = {name: weight.abs() / weight.norm() for name, weight in before.items()}
    all_sizes = torch.cat([size.flatten() for size in relative_sizes.values()])
    threshold = all_sizes.sort().values[int((len(all_sizes) - 1) * 0.6)]
    for name, weight in pruned.items():
        assert torch.equal(weight, before[name] * (relative_sizes[name] > threshold))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in unpruned.items())


@needs_nncf
def test_student_pruned_by_nncf_in_training_stays_an_ordinary_model(build, teacher, tokenizer, tmp_path):
    student = student_of(teacher)
    names = set(student.state_dict())
    trainer = build(model=student)
    pruner = ElementPruner(student, Sparsity(0.75), nncf_masks(student, tokenizer))
    trainer.add_callback(ElementPruningCallback(trainer, pruner, Schedule("cubic", num_prunings=2, end=0.5)))
    trainer.train()
    assert sparsity_report(student).share == pytest.approx(0.75, abs=2e-3)
    assert set(student.state_dict()) == names
    student.save_pretrained(tmp_path / "saved")
    loaded = type(student).from_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of_texts(student, tokenizer), logits_of_texts(loaded, tokenizer))


@needs_nncf
def test_nncf_refuses_patterns(teacher, tokenizer):
    with pytest.raises(InputError, match="NNCF does not support pattern='2:4'"):
        ElementPruner(teacher, Sparsity(pattern="2:4"), nncf_masks(teacher, tokenizer)).prune()


def test_missing_nncf_names_the_extra_to_install(teacher, tokenizer, monkeypatch):
    monkeypatch.setattr("tkd_hf.core.optional_dependencies.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "tkd-hf\[openvino\]"'):
        nncf_masks(teacher, tokenizer)
