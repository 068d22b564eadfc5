"""Pruning while a `DistillationTrainer` trains: on a schedule, checkpointed, and compacted at the end."""

import json
import logging
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from ..callbacks import CheckpointedCallback
from ..errors import InputError
from ..trainer import DistillationTrainer
from .importance import Batch, LossFunction
from .pruner import StructuredPruner, describe_masks
from .schedule import Schedule


logger = logging.getLogger(__name__)

PRUNING_FILE = "pruning.json"


class PruningCallback(CheckpointedCallback):
    """Prunes the student on a schedule, and leaves the trainer a smaller one when training ends.

    Between the prunings the student recovers by ordinary training. Masks, budget and the place in the schedule are in
    every checkpoint: a run that is killed and resumed ends as it would have.

    Args:
        trainer: whose student is pruned.
        pruner: of the trainer's model.
        schedule: when to prune how much.

    Raises:
        InputError: if the trainer is to go back to its best checkpoint, which may be one from before the last pruning.

    Example (`trainer`: a `DistillationTrainer`):

        pruner = StructuredPruner(ParameterTarget(trainer.model, 0.5), *calibration_data(trainer))
        trainer.add_callback(PruningCallback(trainer, pruner, Schedule("cubic")))
        trainer.train()
        trainer.save_model()
    """

    def __init__(self, trainer: DistillationTrainer, pruner: StructuredPruner, schedule: Schedule):
        self.check(trainer.args)
        self.trainer, self.pruner, self.schedule = trainer, pruner, schedule
        self.position = 0  # prunings done

    @staticmethod
    def check(args: TrainingArguments) -> None:
        """Raises `InputError` for training arguments that pruning does not go with."""
        if args.load_best_model_at_end:
            raise InputError(
                "load_best_model_at_end=True would bring back weights from before the last pruning; leave it out"
            )

    def on_train_begin(self, args, state, control, **kwargs):
        self._catch_up(state)

    def on_step_end(self, args, state, control, **kwargs):
        self._catch_up(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._warn_if_short(f": {describe_masks(self.pruner.masks)}")
        self.trainer.replace_model(self.pruner.compact())

    def prune_without_training(self) -> None:
        """Prunes all the way without training, and leaves the trainer what a training would."""
        self.pruner.prune()
        self.position = self.schedule.total_prunings
        self.on_train_end(self.trainer.args, self.trainer.state, self.trainer.control)

    def save(self, checkpoint: str) -> None:
        """Writes masks and position into a checkpoint."""
        state = {"position": self.position, **self.pruner.state_dict()}
        (Path(checkpoint) / PRUNING_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, checkpoint: str) -> None:
        """Reads them back.

        Raises:
            InputError: if the checkpoint is of a run without pruning.
        """
        path = Path(checkpoint) / PRUNING_FILE
        if not path.exists():
            raise InputError(f"{checkpoint} holds no {PRUNING_FILE}: it is of a run without pruning; start anew")
        state = json.loads(path.read_text(encoding="utf-8"))
        self.position = state.pop("position")
        self.pruner.load_state_dict(state)

    def _warn_if_short(self, of_what: str) -> None:
        done, total = self.position, self.schedule.total_prunings
        if done < total:
            logger.warning("training ended after %d of %d prunings, short of the target%s", done, total, of_what)

    def _catch_up(self, state) -> None:
        due = self.schedule.due(state.global_step, state.max_steps)
        if due > self.position:
            self.pruner.prune(self.schedule.share(due))
            self.position = due
            if self.trainer.args.world_size > 1:  # each process has seen other calibration data
                state = [self.pruner.state_dict()]
                self.pruner.load_state_dict(broadcast_object_list(state)[0])


def calibration_data(trainer: DistillationTrainer, examples: int = 256) -> tuple[list[Batch], LossFunction]:
    """What a pruner is to measure importance with: some of the training data, and the loss that training minimises.

    Args:
        trainer: with the student and its training data.
        examples: how many to draw, by the seed of the training arguments; on each device, if there are several.
    """
    data = trainer.train_dataset
    drawn = np.random.default_rng(trainer.args.seed).permutation(len(data))[: examples * trainer.args.world_size]
    batches = list(trainer.get_eval_dataloader(data.select(sorted(drawn.tolist()))))

    def loss(batch: Batch) -> torch.Tensor:
        with trainer.compute_loss_context_manager():
            return trainer.compute_loss(trainer.model, batch)

    return batches, loss
