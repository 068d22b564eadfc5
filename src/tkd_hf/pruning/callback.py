"""Structured pruning during the training of a `DistillationTrainer`, on a schedule."""

import json
import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import TrainerControl, TrainerState, TrainingArguments

from ..core.errors import InputError
from ..training.callbacks import CheckpointedCallback
from ..training.trainer import DistillationTrainer
from .arguments import Schedule
from .importance import Batch, LossFunction
from .pruner import StructuredPruner, describe_masks


logger = logging.getLogger(__name__)

PRUNING_FILE = "pruning.json"


class Pruner(Protocol):
    """A pruner that a schedule drives step by step: `StructuredPruner` or `ElementPruner`."""

    def prune(self, share: float = 1.0) -> None:
        """Prune until this share of the way to the target is done."""

    def state_dict(self) -> dict[str, Any]:
        """Return what has been pruned, as values that JSON can hold."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another pruner of the same model."""


class ScheduledPruning(CheckpointedCallback):
    """Base class of the callbacks that prune the student on a schedule during training.

    Every checkpoint holds the pruner's state and the position in the schedule, so a run that is killed and resumed ends
    exactly as it would have without the interruption.

    Args:
        trainer: trainer of the student.
        pruner: prunes the trainer's model.
        schedule: when to prune and how much.

    Raises:
        InputError: if the trainer loads its best checkpoint at the end, because that checkpoint may date from before
            the last pruning.
    """

    def __init__(self, trainer: DistillationTrainer, pruner: Pruner, schedule: Schedule):
        self.check(trainer.args)
        self.trainer, self.pruner, self.schedule = trainer, pruner, schedule
        self.position = 0  # number of prunings that are done

    @staticmethod
    def check(args: TrainingArguments) -> None:
        """Raise an `InputError` if these training arguments cannot be combined with pruning."""
        if args.load_best_model_at_end:
            raise InputError(
                "load_best_model_at_end=True could restore weights from before the last pruning; remove this argument"
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._prune_if_due(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._prune_if_due(state)

    def prune_without_training(self) -> None:
        """Prune to the target at once, and replace the trainer's model as at the end of training."""
        self.pruner.prune()
        self.position = self.schedule.total_prunings
        self.on_train_end(self.trainer.args, self.trainer.state, self.trainer.control)

    def save(self, checkpoint: str) -> None:
        """Write masks and position into a checkpoint."""
        state = {"position": self.position, **self.pruner.state_dict()}
        (Path(checkpoint) / PRUNING_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, checkpoint: str) -> None:
        """Read masks and position from a checkpoint.

        Raises:
            InputError: if the checkpoint comes from a run without pruning.
        """
        path = Path(checkpoint) / PRUNING_FILE
        if not path.exists():
            raise InputError(
                f"{checkpoint} has no {PRUNING_FILE}, so it comes from a run without pruning; start a new run instead"
            )
        state = json.loads(path.read_text(encoding="utf-8"))
        self.position = state.pop("position")
        self.pruner.load_state_dict(state)

    def warn_if_unfinished(self, target: str) -> None:
        """Log a warning if training ended before the last pruning."""
        done, total = self.position, self.schedule.total_prunings
        if done < total:
            logger.warning("training ended after %d of %d prunings, short of the target%s", done, total, target)

    def _prune_if_due(self, state: TrainerState) -> None:
        due = self.schedule.prunings_due(state.global_step, state.max_steps)
        if due > self.position:
            self.pruner.prune(self.schedule.completed_share(due))
            self.position = due
            if self.trainer.args.world_size > 1:
                # Each process scores units on its own calibration data, so all take over the masks of the first one.
                pruner_state = [self.pruner.state_dict()]
                self.pruner.load_state_dict(broadcast_object_list(pruner_state)[0])


class PruningCallback(ScheduledPruning):
    """Prune the student on a schedule during training, and replace it by the smaller model when training ends.

    Between the prunings, the student recovers by ordinary training. Every checkpoint holds the masks, the budget and
    the position in the schedule, so a run that is killed and resumed ends exactly as it would have without the
    interruption.

    During training, `trainer.model` still has its full size; it becomes the small model in `on_train_end`. If training
    stops before the last pruning, as with early stopping, that model is larger than the target, and a warning says so.

    Args:
        trainer: trainer of the student.
        pruner: prunes the trainer's model.
        schedule: when to prune and how much.

    Raises:
        InputError: if the trainer loads its best checkpoint at the end, because that checkpoint may date from before
            the last pruning.

    Example (`trainer`: a `DistillationTrainer`):

        pruner = StructuredPruner(ParameterTarget(trainer.model, 0.5), *calibration_data(trainer))
        trainer.add_callback(PruningCallback(trainer, pruner, Schedule("cubic")))
        trainer.train()
        trainer.save_model()
    """

    pruner: StructuredPruner

    def __init__(self, trainer: DistillationTrainer, pruner: StructuredPruner, schedule: Schedule):
        super().__init__(trainer, pruner, schedule)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.warn_if_unfinished(f": {describe_masks(self.pruner.masks)}")
        self.trainer.replace_model(self.pruner.compact())


def calibration_data(trainer: DistillationTrainer, examples: int = 256) -> tuple[list[Batch], LossFunction]:
    """Draw training examples, and return them with the training loss, for a `StructuredPruner` to score units with.

    Args:
        trainer: trainer of the student; its `train_dataset` is sampled with the seed of its arguments.
        examples: number of examples per device. More examples make the scores less noisy and take longer; each pruning
            runs the model on all of them.

    Returns:
        batches in evaluation order, and a function that computes the trainer's loss on a batch.

    Raises:
        InputError: if the training data is not a `datasets.Dataset`.
    """
    dataset = trainer.train_dataset
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"the training data is a {type(dataset).__name__}, from which pruning cannot draw examples; convert it to "
            "a datasets.Dataset"
        )
    indices = np.random.default_rng(trainer.args.seed).permutation(len(dataset))[: examples * trainer.args.world_size]
    batches = list(trainer.get_eval_dataloader(dataset.select(sorted(indices.tolist()))))

    def loss(batch: Batch) -> torch.Tensor:
        return trainer.batch_loss(trainer.model, batch)

    return batches, loss
