"""Callbacks of every training: state for checkpoints, reasons to stop, and files that stay private in a push."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from ..core.errors import InputError
from ..core.processes import DelayedStop


STEPS_BETWEEN_AGREEMENTS = 10


class CheckpointedCallback(TrainerCallback):
    """Base class of callbacks with state that a `BaseTrainer` saves in its checkpoints and restores."""

    def save(self, checkpoint: str) -> None:
        """Write the state into the folder of a checkpoint."""
        raise NotImplementedError

    def load(self, checkpoint: str) -> None:
        """Read the state when training resumes; called before the optimizer's state is loaded."""
        raise NotImplementedError


class ReportsStep(Protocol):
    """A trainer that tells the gradient norm of its last step and the terms of its loss."""

    gradient_norm: torch.Tensor | float | None

    def last_losses(self) -> dict[str, float]:
        """Return the terms of the last loss, by name."""


class StopOnNonFiniteGradient(TrainerCallback):
    """Stop training before a step whose gradient is not finite, so that weights and checkpoints stay usable.

    In fp16 such steps are normal and the Trainer's gradient scaler skips them, so nothing is checked. DeepSpeed does
    not show gradients and takes the step itself. There, training stops after the first step with a loss that is not
    finite, before a checkpoint of it is written.

    Args:
        trainer: provides the gradient norm of the step, and the terms of its loss.

    Raises:
        InputError: naming the step and the terms of the loss.
    """

    def __init__(self, trainer: ReportsStep):
        self._trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.fp16:
            return
        norm = self._trainer.gradient_norm
        checked: Iterable[torch.Tensor | float]
        if norm is not None and any(weight.grad is not None for weight in kwargs["model"].parameters()):
            checked, quantity, when = [norm], "gradient", "before it; the last checkpoint is good"
        else:
            checked, quantity, when = self._trainer.last_losses().values(), "loss", "after it"
        if all(map(math.isfinite, checked)):
            return
        terms = ", ".join(f"{name} {value:.4g}" for name, value in self._trainer.last_losses().items())
        raise InputError(
            f"the {quantity} of step {state.global_step + 1} is not finite ({terms}); training stopped {when}. "
            "Check the data for values that are not finite, lower learning_rate or max_grad_norm, or use fp32"
        )


class StopOnTermination(TrainerCallback):
    """On a request to stop, finish the current step, have a checkpoint written, and stop.

    A run that resumes from this checkpoint ends as it would have ended without the interruption. In a distributed run
    the processes agree every ten steps, because they must stop after the same one.

    Args:
        stop: remembers the request.

    Attributes:
        stopped_at: the step after which training stopped; `None` if it was not stopped.
    """

    def __init__(self, stop: DelayedStop) -> None:
        self.stopped_at: int | None = None
        self._stop = stop

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step < state.max_steps and self._is_requested(args, state.global_step):
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def _is_requested(self, args: TrainingArguments, step: int) -> bool:
        if args.world_size == 1:
            return self._stop.signum is not None
        if step % STEPS_BETWEEN_AGREEMENTS:
            return False
        signum = torch.tensor(self._stop.signum or 0, device=args.device)
        torch.distributed.all_reduce(signum, torch.distributed.ReduceOp.MAX)
        self._stop.signum = int(signum.item()) or None
        return self._stop.signum is not None


# The training arguments are a pickle and contain the Hub token. The state of the Trainer, the run record and the logs
# contain local paths. `tkd-hf push` publishes the record after it has removed those. A checkpoint that `hub_strategy`
# pushes keeps its state, so that training can resume from it.
_PRIVATE_FILES = (TRAINING_ARGS_NAME, f"/{TRAINER_STATE_NAME}", "/tkd_run.json", "/runs/", "/disagreements*.jsonl")


class PrivateFilesCallback(TrainerCallback):
    """Keep private files out of `Trainer.push_to_hub` and `hub_strategy`, with a `.gitignore` that the Hub respects."""

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the `.gitignore` before each push."""
        assert args.output_dir is not None  # TrainingArguments.__post_init__ sets a default
        Path(args.output_dir, ".gitignore").write_text("\n".join(_PRIVATE_FILES) + "\n", encoding="utf-8")
