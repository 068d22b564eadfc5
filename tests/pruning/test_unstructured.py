import logging
import zlib

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, TrainerCallback

from tkd_hf.errors import InputError
from tkd_hf.pruning import Schedule
from tkd_hf.pruning.unstructured import (
    ElementPruner,
    ElementPruningCallback,
    Sparsity,
    magnitude_masks,
    prunable_weights,
    sparsity_report,
)

from ..conftest import build_teacher
from ..training import student_of, weights


ONE = torch.tensor([[4.0, -1.0, 2.0, 3.0], [-8.0, 5.0, 6.0, 7.0]])
TWO = torch.tensor([[0.5, 9.0, -0.1, 10.0]])
BOTH = {"one": ONE, "two": TWO}


def kept(masks):
    return {name: mask.int().tolist() for name, mask in masks.items()}


def test_global_ranks_all_weights_together():
    # the six smallest of twelve are 0.1 0.5 1 2 3 4
    expected = {"one": [[0, 0, 0, 0], [1, 1, 1, 1]], "two": [[0, 1, 0, 1]]}
    assert kept(magnitude_masks(BOTH, Sparsity(0.5))) == expected


def test_layer_takes_the_same_share_of_each():
    expected = {"one": [[0, 0, 0, 0], [1, 1, 1, 1]], "two": [[0, 1, 0, 1]]}
    assert kept(magnitude_masks(BOTH, Sparsity(0.5, "layer"))) == expected
    expected = {"one": [[1, 0, 0, 1], [1, 1, 1, 1]], "two": [[1, 1, 0, 1]]}
    assert kept(magnitude_masks(BOTH, Sparsity(0.25, "layer"))) == expected
    expected = {"one": [[1, 0, 1, 1], [1, 1, 1, 1]], "two": [[0, 1, 0, 1]]}
    assert kept(magnitude_masks(BOTH, Sparsity(0.25))) == expected


def test_a_pattern_keeps_the_strongest_of_each_group():
    expected = {"one": [[1, 0, 0, 1], [1, 0, 0, 1]], "two": [[0, 1, 0, 1]]}
    assert kept(magnitude_masks(BOTH, Sparsity(pattern="2:4"))) == expected
    expected = {"one": [[1, 0, 0, 1], [1, 0, 0, 1]], "two": [[0, 1, 0, 1]]}
    assert kept(magnitude_masks(BOTH, Sparsity(pattern="1:2"))) == expected
    # on the way there, whole elements of a group
    for share, zeros in ((0.0, 0), (0.49, 0), (0.5, 3), (0.99, 3), (1.0, 6)):
        masks = magnitude_masks(BOTH, Sparsity(pattern="2:4"), share)
        assert sum(int((~mask).sum()) for mask in masks.values()) == zeros


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, 3.5]), min_size=1, max_size=40), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_the_share_is_exact_even_among_equal_weights(values, share):
    weight = torch.tensor([values])
    mask = magnitude_masks({"w": weight}, Sparsity(share))["w"]
    assert int((~mask).sum()) == round(share * len(values))
    gone, stays = weight[~mask].abs(), weight[mask].abs()
    assert not len(gone) or not len(stays) or gone.max() <= stays.min()


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
def test_embeddings_pooler_and_head_are_protected(build):
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ElementPruner(model, Sparsity(0.9)).prune()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == set(prunable_weights(model))
    assert len(changed) == 6 * model.config.num_hidden_layers


@pytest.mark.parametrize("sparsity", [Sparsity(0.7), Sparsity(0.7, "layer"), Sparsity(pattern="2:4")])
def test_resumed_is_uninterrupted(build, tmp_path, teacher, sparsity):
    """From between two prunings, masks, weights and place in the schedule included."""

    def trainer():
        made = build(model=student_of(teacher, dropout=0.1), save_strategy="steps", save_steps=1, num_train_epochs=4)
        pruner = ElementPruner(made.model, sparsity)
        made.add_callback(ElementPruningCallback(made, pruner, Schedule("linear", num_prunings=4, end=0.75)))
        return made, pruner

    whole, masked = trainer()
    whole.train()
    assert whole.state.global_step == 8
    assert sparsity_report(whole.model).share == pytest.approx(sparsity.target, abs=1e-3)

    again, restored = trainer()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    torch.testing.assert_close(weights(whole), weights(again), atol=0, rtol=0)
    assert all(torch.equal(masked.masks[name], mask) for name, mask in restored.masks.items())


def test_zeros_are_in_every_checkpoint_and_in_the_saved_model(build, tmp_path, teacher):
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


def test_one_shot_prunes_at_the_start_and_what_is_left_learns(build, teacher):
    trainer = build(model=student_of(teacher))
    pruner = ElementPruner(trainer.model, Sparsity(0.5))
    before = {name: weight.detach().clone() for name, weight in pruner.weights.items()}
    trainer.add_callback(ElementPruningCallback(trainer, pruner, Schedule("one-shot")))
    trainer.train()
    expected = magnitude_masks(before, Sparsity(0.5))
    for name, weight in pruner.weights.items():
        assert torch.equal(weight != 0, expected[name])
        assert not torch.equal(weight[expected[name]], before[name][expected[name]])


def test_the_report_counts_zeros_and_compresses():
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


def test_a_run_cut_short_says_so(build, teacher, caplog):
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
        ({"share": 0.5, "scope": "head"}, "unknown scope 'head'; there are global, layer"),
        ({"pattern": "4:2"}, "pattern='4:2' keeps 4 of 2"),
        ({"pattern": "half"}, "pattern='half' is not of the form N:M"),
    ],
)
def test_sparsities_without_sense_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Sparsity(**fields)


def test_what_does_not_fit_is_refused(build, teacher):
    with pytest.raises(InputError, match=r"query.weight has 16 inputs, which are no multiple of 3"):
        ElementPruner(teacher, Sparsity(pattern="2:3")).prune()
    with pytest.raises(InputError, match="no linear layers of floats"):
        ElementPruner(BertModel(BertConfig(num_hidden_layers=0)), Sparsity(0.5))
    state = ElementPruner(teacher, Sparsity(0.5)).state_dict()
    with pytest.raises(InputError, match="masks of 24 weights, which are not the 12"):
        ElementPruner(student_of(teacher), Sparsity(0.5)).load_state_dict(state)
    with pytest.raises(InputError, match="masks of 0 weights"):
        ElementPruner(teacher, Sparsity(0.5)).load_state_dict({"kept": {}})
    name = next(iter(state["masks"]))
    state["masks"][name] = state["masks"][name][:8]
    with pytest.raises(InputError, match="elements for a weight of 256"):
        ElementPruner(teacher, Sparsity(0.5)).load_state_dict(state)
