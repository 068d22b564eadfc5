"""`PruningCallback` in a trainer: the schedule, resuming, compaction at the end, and pruning in two processes.

Run as a program (`python -m tests.pruning.test_callback FOLDER`), this file is one process of the distributed test.
"""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, TrainerCallback

from tkd_hf import DistillationTrainer, InputError, student_from_teacher
from tkd_hf.data.tokenization import tokenize
from tkd_hf.pruning.arguments import Schedule
from tkd_hf.pruning.callback import PruningCallback, calibration_data
from tkd_hf.pruning.pruner import StructuredPruner
from tkd_hf.pruning.targets import ParameterTarget

from ..factories import (
    LABELS,
    TEXTS,
    arguments,
    build_teacher,
    build_tokenizer,
    logits_of_texts,
    losses,
    read_json,
    student_of,
    weights,
)


ALL_KINDS = ("heads", "neurons", "layers", "hidden")


@pytest.fixture
def build_pruning_trainer(build, teacher):
    """Build a trainer whose student is pruned to a share of its parameters; return it with its callback."""

    def build_with_callback(
        schedule="cubic", share=0.5, kinds=ALL_KINDS, num_prunings=3, importance="taylor", **fields
    ):
        trainer = build(model=student_of(teacher, dropout=0.1), **fields)
        batches, loss = calibration_data(trainer, examples=6)
        pruner = StructuredPruner(ParameterTarget(trainer.model, share, kinds=kinds), batches, loss, importance)
        callback = PruningCallback(trainer, pruner, Schedule(schedule, num_prunings=num_prunings, end=0.75))
        trainer.add_callback(callback)
        return trainer, callback

    return build_with_callback


class ParameterLog(TrainerCallback):
    """Record at each step how many parameters the masks leave."""

    def __init__(self, callback):
        self.callback, self.parameters = callback, []

    def on_step_begin(self, args, state, control, **kwargs):
        pruner = self.callback.pruner
        self.parameters.append(pruner.target.price(pruner.masks.pruned_config(pruner.model.config)))


@pytest.mark.parametrize("schedule", ["one-shot", "linear", "cubic"])
def test_pruning_follows_the_schedule(build_pruning_trainer, schedule):
    trainer, callback = build_pruning_trainer(schedule, num_train_epochs=4)
    unpruned = trainer.model.num_parameters()
    log = ParameterLog(callback)
    trainer.add_callback(log)
    trainer.train()
    # There are eight steps; the three prunings are due after steps two, four and six.
    shares = {"one-shot": [1] * 8, "linear": [0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1]}
    shares["cubic"] = [1 - (1 - share) ** 3 for share in shares["linear"]]
    largest_unit = unpruned // 20
    for parameters, share in zip(log.parameters, shares[schedule], strict=True):
        assert 0 <= unpruned * (1 - 0.5 * share) - parameters < largest_unit
    assert trainer.model.num_parameters() == log.parameters[-1]


@pytest.mark.parametrize("objectives", [{"logits": 0.9, "hard": 0.1}, {"hidden": 1.0, "relations": 1.0, "hard": 0.1}])
@pytest.mark.parametrize("step", [2, 3, 5, 8])
def test_resumed_run_ends_with_the_same_masks_and_weights(build_pruning_trainer, tmp_path, objectives, step):
    """The checkpoints lie before, on and after prunings, and at the end. Weights agree to the last bit."""
    fields = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 1, "objectives": objectives}
    uninterrupted, callback = build_pruning_trainer(**fields)
    losses(uninterrupted)
    resumed, resumed_callback = build_pruning_trainer(**fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    assert resumed_callback.position == callback.position == 3
    assert resumed_callback.pruner.state_dict() == callback.pruner.state_dict()
    torch.testing.assert_close(weights(uninterrupted), weights(resumed), atol=0, rtol=0)


def test_student_is_compacted_after_training_then_saves_loads_and_trains_on(
    build_pruning_trainer, build, tokenizer, tmp_path
):
    trainer, callback = build_pruning_trainer()
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
    second_trainer = build(model=loaded)
    second_trainer.train()
    assert (weights(second_trainer) - before).abs().max() > 0


def test_evaluation_after_compaction_has_no_loss_of_hidden_states(build_pruning_trainer):
    """Objectives on hidden states were built for the unpruned shape, so evaluation leaves the loss out."""
    trainer, _ = build_pruning_trainer(objectives={"hidden": 1.0, "hard": 0.1})
    assert "eval_loss" in trainer.evaluate()
    trainer.train()
    assert "eval_loss" not in trainer.evaluate()


def test_changes_of_masked_weights_do_not_change_the_logits(build_pruning_trainer, tokenizer):
    """Weight decay may change them, and so may any other number."""
    trainer, callback = build_pruning_trainer(
        "one-shot", weight_decay=0.5, learning_rate=1e-2, kinds=("neurons",), share=0.8
    )
    trainer.train()
    student, masks = callback.pruner.model, callback.pruner.masks
    compacted = logits_of_texts(trainer.model, tokenizer)
    torch.testing.assert_close(logits_of_texts(student, tokenizer), compacted, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for layer, mask in zip(student.tkd.layers, masks.neurons, strict=True):
            layer.feed_forward.output.weight[:, ~mask] = 100.0
    torch.testing.assert_close(logits_of_texts(student, tokenizer), compacted, atol=1e-5, rtol=1e-5)


def test_calibration_data_depends_on_the_seed_and_pruning_uses_no_random_numbers(build, teacher):
    first, same_seed, another_seed = (build(model=student_of(teacher), seed=seed) for seed in (1, 1, 2))
    calibrations = [calibration_data(trainer, 4)[0] for trainer in (first, same_seed, another_seed)]
    ids = [torch.cat([batch["input_ids"].flatten() for batch in batches]) for batches in calibrations]
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])
    pruner = StructuredPruner(ParameterTarget(first.model, 0.5, kinds=ALL_KINDS), *calibration_data(first, 4))
    before, state = weights(first), torch.get_rng_state()
    pruner.prune()
    pruner.compact()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(first), before)


def test_student_that_is_its_own_teacher_can_be_pruned_with_labels(build, teacher):
    """The distillation loss has no gradient, but the loss of the labels has one."""
    trainer = build(model=student_from_teacher(teacher))
    pruner = StructuredPruner(ParameterTarget(trainer.model, 0.5, kinds=ALL_KINDS), *calibration_data(trainer))
    pruner.prune()
    assert pruner.compact().num_parameters() <= 0.5 * trainer.model.num_parameters()


def test_resuming_from_a_run_without_pruning_is_refused(build, build_pruning_trainer, teacher, tmp_path):
    build(model=student_of(teacher, dropout=0.1), save_strategy="steps", save_steps=2).train()
    trainer, _ = build_pruning_trainer()
    with pytest.raises(InputError, match=r"checkpoint-2 has no pruning.json.* from a run without pruning; start a new"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_training_that_ends_early_warns_that_the_target_is_not_met(build_pruning_trainer, caplog):
    trainer, _ = build_pruning_trainer(num_train_epochs=4)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    trainer.add_callback(Stop())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "training ended after 1 of 3 prunings, short of the target" in caplog.text


def test_loading_the_best_checkpoint_is_refused(build_pruning_trainer):
    fields = {"save_strategy": "epoch", "eval_strategy": "epoch"}
    with pytest.raises(InputError, match="load_best_model_at_end=True could restore weights"):
        build_pruning_trainer(load_best_model_at_end=True, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"importance": "random"}, "importance 'random'; choose among taylor, magnitude, activation"),
        ({"kinds": ("heads", "words")}, "units=heads, words; choose among heads, neurons, layers, hidden"),
        ({"share": 0.01}, "the target 0.01 of the parameters cannot be met"),
        ({"schedule": "exponential"}, "schedule 'exponential'; choose among one-shot, linear, cubic"),
        ({"num_prunings": 0}, "num_prunings=0, start=0.0, end=0.75 .* prune at least once"),
    ],
)
def test_invalid_settings_are_refused(build_pruning_trainer, fields, message):
    with pytest.raises(InputError, match=message):
        build_pruning_trainer(**fields)


@pytest.mark.slow
def test_two_processes_prune_the_same_units(tmp_path):
    """Each process scores units on its own calibration data, and both must end with the same masks."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launch, "--module", "tests.pruning.test_callback", str(tmp_path)]
    process = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    first, second = (read_json(tmp_path / f"{rank}.json") for rank in range(2))
    assert first["seen"] != second["seen"]
    assert first["masks"] == second["masks"]
    assert first["left"] == second["left"]


def train_and_prune_in_one_process(folder: Path):
    """Train a pruned student, and write masks, calibration examples and size to `folder/RANK.json`."""
    teacher, tokenizer = build_teacher(), build_tokenizer()
    trainer = DistillationTrainer(
        student_of(teacher),
        arguments(folder, per_device_train_batch_size=2, per_device_eval_batch_size=2, num_train_epochs=4),
        teacher_model=teacher,
        train_dataset=tokenize(Dataset.from_dict({"text": TEXTS, "label": LABELS}), tokenizer),
        processing_class=tokenizer,
    )
    pruner = StructuredPruner(ParameterTarget(trainer.model, 0.6), *calibration_data(trainer, 4))
    trainer.add_callback(PruningCallback(trainer, pruner, Schedule("cubic", num_prunings=3)))
    trainer.train()
    seen = [batch["input_ids"].tolist() for batch in pruner._batches]
    state = {"masks": pruner.state_dict(), "seen": seen, "left": trainer.model.num_parameters()}
    (folder / f"{trainer.args.process_index}.json").write_text(json.dumps(state))


if __name__ == "__main__":
    train_and_prune_in_one_process(Path(sys.argv[1]))
