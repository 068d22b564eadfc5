"""Callbacks of all trainings: what checkpoints have to hold, and when training must stop."""

import math
import signal
import threading

from transformers import TrainerCallback

from .errors import InputError


class CheckpointedCallback(TrainerCallback):
    """A callback with a state of its own, which a `DistillationTrainer` writes into its checkpoints and reads back."""

    def save(self, checkpoint: str) -> None:
        """Writes the state into the folder of a checkpoint."""
        raise NotImplementedError

    def load(self, checkpoint: str) -> None:
        """Reads it back when training resumes, before the optimizer's state is loaded."""
        raise NotImplementedError


class StopOnNonFiniteGradient(TrainerCallback):
    """Stops training before a step whose gradient is not finite, so that weights and checkpoints stay good.

    In fp16 such steps are ordinary, and the Trainer's scaler leaves them out. DeepSpeed keeps gradients to itself and
    steps as it likes: there training stops after the first step whose loss is not finite, before a checkpoint of it.

    Args:
        trainer: says by `gradient_norm` how large the gradient is, and by `last_losses` what its last loss was made of.

    Raises:
        InputError: instead of the step, with DeepSpeed after it; it names the step and the parts of the loss.
    """

    def __init__(self, trainer):
        self._trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if args.fp16:
            return
        norm = self._trainer.gradient_norm
        seen = norm is not None and any(weight.grad is not None for weight in model.parameters())
        known = [norm] if seen else self._trainer.last_losses().values()
        if not all(map(math.isfinite, known)):
            losses = ", ".join(f"{name} {value:.4g}" for name, value in self._trainer.last_losses().items())
            what, when = ("gradient", "before it; the last checkpoint is good") if seen else ("loss", "after it")
            raise InputError(
                f"the {what} of step {state.global_step + 1} is not finite ({losses}); training stopped {when}. "
                "Look at the data for what is not finite, lower learning_rate or max_grad_norm, or use fp32"
            )


class StopOnTermination(TrainerCallback):
    """On SIGTERM lets the step end, has a checkpoint written, and stops: resumed, the run ends as it would have.

    Attributes:
        stopped_at: the step after which training stopped; `None` if it ran to its end.
    """

    def __init__(self):
        self.stopped_at = None
        self._asked = False

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():  # others cannot hear signals
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def on_step_end(self, args, state, control, **kwargs):
        if self._asked and state.global_step < state.max_steps:
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        if hasattr(self, "_before"):
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_):
        self._asked = True
