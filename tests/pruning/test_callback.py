"""Pruning inside the trainer: on schedule, resumed to the same ending, compacted at the end."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback

from tkd_hf import InputError, student_from_teacher
from tkd_hf.pruning import ParameterTarget, PruningCallback, Schedule, StructuredPruner, calibration_data

from ..conftest import read_json
from ..training import logits_of_texts, losses, student_of, weights


EVERYTHING = ("heads", "neurons", "layers", "hidden")


@pytest.fixture
def pruned(build, teacher):
    """A trainer of a student that is pruned to a share of its parameters."""

    def make(schedule="cubic", share=0.5, kinds=EVERYTHING, num_prunings=3, importance="taylor", **fields):
        trainer = build(model=student_of(teacher, dropout=0.1), **fields)
        data, loss = calibration_data(trainer, examples=6)
        pruner = StructuredPruner(ParameterTarget(trainer.model, share, kinds=kinds), data, loss, importance)
        callback = PruningCallback(trainer, pruner, Schedule(schedule, num_prunings=num_prunings, end=0.75))
        trainer.add_callback(callback)
        return trainer, callback

    return make


class Log(TrainerCallback):
    """Parameters that the masks leave at each step."""

    def __init__(self, callback):
        self.callback, self.left = callback, []

    def on_step_begin(self, args, state, control, **kwargs):
        pruner = self.callback.pruner
        self.left.append(pruner.target.price(pruner.masks.pruned_config(pruner.model.config)))


@pytest.mark.parametrize("schedule", ["one-shot", "linear", "cubic"])
def test_pruning_follows_the_schedule(pruned, schedule):
    trainer, callback = pruned(schedule, num_train_epochs=4)
    whole = trainer.model.num_parameters()
    log = Log(callback)
    trainer.add_callback(log)
    trainer.train()
    # eight steps; the prunings of three are due after two, four and six
    shares = {"one-shot": [1] * 8, "linear": [0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1]}
    shares["cubic"] = [1 - (1 - share) ** 3 for share in shares["linear"]]
    largest = whole // 20  # parameters of one unit
    for left, share in zip(log.left, shares[schedule], strict=True):
        assert 0 <= whole * (1 - 0.5 * share) - left < largest
    assert trainer.model.num_parameters() == log.left[-1]


@pytest.mark.parametrize("objectives", [{"logits": 0.9, "hard": 0.1}, {"hidden": 1.0, "relations": 1.0, "hard": 0.1}])
@pytest.mark.parametrize("step", [2, 3, 5, 8])
def test_resumed_is_uninterrupted(pruned, tmp_path, objectives, step):
    """Before, on and after prunings, and at the end: the same masks, the same weights to the bit."""
    fields = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 1, "objectives": objectives}
    whole, callback = pruned(**fields)
    losses(whole)
    again, resumed = pruned(**fields)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    assert resumed.position == callback.position == 3
    assert resumed.pruner.state_dict() == callback.pruner.state_dict()
    torch.testing.assert_close(weights(whole), weights(again), atol=0, rtol=0)


def test_the_student_is_compacted_saved_and_trains_on(pruned, build, tokenizer, tmp_path):
    trainer, callback = pruned()
    trainer.train()
    masked = logits_of_texts(callback.pruner.model, tokenizer)
    torch.testing.assert_close(logits_of_texts(trainer.model, tokenizer), masked, atol=1e-5, rtol=1e-5)
    assert trainer.model.num_parameters() <= 0.5 * callback.pruner.model.num_parameters()
    assert {"eval_loss", "eval_loss_logits"} <= set(trainer.evaluate())
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(
        logits_of_texts(loaded, tokenizer), logits_of_texts(trainer.model, tokenizer), atol=0, rtol=0
    )
    before = torch.cat([weight.detach().flatten() for weight in loaded.parameters()])
    further = build(model=loaded)
    further.train()
    assert (weights(further) - before).abs().max() > 0


def test_features_of_another_shape_have_no_loss(pruned):
    """What objectives read of hidden states was built for the shape before: metrics stay, and the loss is left out."""
    trainer, _ = pruned(objectives={"hidden": 1.0, "hard": 0.1})
    assert "eval_loss" in trainer.evaluate()
    trainer.train()
    assert "eval_loss" not in trainer.evaluate()


def test_masked_weights_may_decay_but_say_nothing(pruned, tokenizer):
    trainer, callback = pruned("one-shot", weight_decay=0.5, learning_rate=1e-2, kinds=("neurons",), share=0.8)
    trainer.train()
    student, masks = callback.pruner.model, callback.pruner.masks
    torch.testing.assert_close(
        logits_of_texts(student, tokenizer), logits_of_texts(trainer.model, tokenizer), atol=1e-5, rtol=1e-5
    )
    with torch.no_grad():
        for layer, mask in zip(student.tkd.layers, masks.neurons, strict=True):
            layer.feed_forward.output.weight[:, ~mask] = 100.0
    torch.testing.assert_close(
        logits_of_texts(student, tokenizer), logits_of_texts(trainer.model, tokenizer), atol=1e-5, rtol=1e-5
    )


def test_calibration_goes_by_the_seed_and_pruning_by_nothing_random(build, teacher):
    one, other, else_ = (build(model=student_of(teacher), seed=seed) for seed in (1, 1, 2))
    drawn = [calibration_data(trainer, 4)[0] for trainer in (one, other, else_)]
    ids = [torch.cat([batch["input_ids"].flatten() for batch in batches]) for batches in drawn]
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])
    pruner = StructuredPruner(ParameterTarget(one.model, 0.5, kinds=EVERYTHING), *calibration_data(one, 4))
    before, state = weights(one), torch.get_rng_state()
    pruner.prune()
    pruner.compact()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(one), before)


def test_a_student_that_is_its_own_teacher(build, teacher):
    """The distillation loss has no gradient there; that of the labels has."""
    trainer = build(model=student_from_teacher(teacher))
    pruner = StructuredPruner(ParameterTarget(trainer.model, 0.5, kinds=EVERYTHING), *calibration_data(trainer))
    pruner.prune()
    assert pruner.compact().num_parameters() <= 0.5 * trainer.model.num_parameters()


def test_a_checkpoint_of_a_run_without_pruning(build, pruned, teacher, tmp_path):
    build(model=student_of(teacher, dropout=0.1), save_strategy="steps", save_steps=2).train()
    trainer, _ = pruned()
    with pytest.raises(InputError, match=r"checkpoint-2 holds no pruning.json: it is of a run without pruning"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_training_that_ends_early_says_so(pruned, caplog):
    trainer, _ = pruned(num_train_epochs=4)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    trainer.add_callback(Stop())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "training ended after 1 of 3 prunings, short of the target" in caplog.text


def test_going_back_to_the_best_checkpoint_is_refused(pruned):
    fields = {"save_strategy": "epoch", "eval_strategy": "epoch"}
    with pytest.raises(InputError, match="load_best_model_at_end=True would bring back weights"):
        pruned(load_best_model_at_end=True, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"importance": "random"}, "unknown importance 'random'; there are taylor, magnitude, activation"),
        ({"kinds": ("heads", "words")}, "units=heads, words; choose among heads, neurons, layers, hidden"),
        ({"share": 0.01}, "the target 0.01 of the parameters cannot be met"),
        ({"schedule": "exponential"}, "unknown schedule 'exponential'; there are one-shot, linear, cubic"),
        ({"num_prunings": 0}, "num_prunings=0, start=0.0, end=0.75 make no schedule"),
    ],
)
def test_mistakes(pruned, fields, message):
    with pytest.raises(InputError, match=message):
        pruned(**fields)


@pytest.mark.slow
def test_two_processes_prune_the_same(tmp_path):
    """Whatever each has seen to measure importance with."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [sys.executable, *launch, "--module", "tests.pruning.distributed_pruning", str(tmp_path)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (read_json(tmp_path / f"{rank}.json") for rank in range(2))
    assert one["seen"] != other["seen"]
    assert one["masks"] == other["masks"]
    assert one["left"] == other["left"]
