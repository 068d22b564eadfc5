"""Shared by the training stages: the arguments that a record keeps, and training in a run folder."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from accelerate.utils.memory import should_reduce_batch_size
from tqdm.auto import tqdm
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..cards.generate import card
from ..core.errors import InputError, TrainingStopped, first_line
from ..core.processes import DelayedStop, resumable
from ..records.run_folder import RunFolder, StageRecord
from .base_trainer import BaseTrainer
from .callbacks import StopOnTermination


logger = logging.getLogger(__name__)

AnyTrainer = TypeVar("AnyTrainer", bound=BaseTrainer)


def train_into(
    folder: RunFolder,
    trainer: AnyTrainer,
    before_saving: Callable[[AnyTrainer], dict[str, Any] | None] | None = None,
) -> StageRecord:
    """Train in a run folder, from its latest checkpoint if it has one, and save a model that loads as it is.

    The model is evaluated at the end. The record's metrics are those on the evaluation split and the time per epoch.

    Args:
        folder: the run folder.
        trainer: the trainer, ready to train.
        before_saving: called with the trainer after training and before the model is saved and evaluated; it may return
            further metrics.

    Returns:
        the finished record.

    Raises:
        TrainingStopped: after SIGINT, SIGTERM or SIGHUP, once a checkpoint has been written. A second signal stops at
            once. If training is over already, the run is finished first.
        InputError: if memory runs out, or the gradient is not finite.
    """
    log_to_stderr(trainer)
    trainer.run_record = folder.record
    trainer.accelerator.wait_for_everyone()  # until all processes have checked the folder
    folder.start()
    trainer.accelerator.wait_for_everyone()  # until the first one has prepared it
    checkpoint = folder.checkpoint
    if checkpoint:
        logger.info("%s resumes from %s", folder.path, Path(checkpoint).name)
    with resumable(), DelayedStop() as stop:
        return _train_and_finish(folder, trainer, checkpoint, before_saving, stop)


def _train_and_finish(
    folder: RunFolder,
    trainer: AnyTrainer,
    checkpoint: str | None,
    before_saving: Callable[[AnyTrainer], dict[str, Any] | None] | None,
    stop: DelayedStop,
) -> StageRecord:
    termination = StopOnTermination(stop)
    trainer.add_callback(termination)
    with explain_out_of_memory(trainer):
        train_metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if termination.stopped_at is not None and stop.signum is not None:
        raise TrainingStopped(f"stopped after step {termination.stopped_at} with a checkpoint", stop.signum)
    extra_metrics = before_saving(trainer) if before_saving is not None else None
    metrics = save_and_evaluate(trainer) | (extra_metrics or {})
    if checkpoint is None:  # a resumed run's time covers only its last session
        metrics["seconds_per_epoch"] = round(train_metrics["train_runtime"] / trainer.state.epoch, 1)
    record = finish_run(folder, trainer, metrics)
    if stop.signum is not None:
        raise TrainingStopped(f"{folder.path} is finished", stop.signum)
    return record


def finish_run(folder: RunFolder, trainer: BaseTrainer, metrics: dict[str, Any]) -> StageRecord:
    """Finish the run's record with its metrics, and write the card, so that the folder can be published."""
    record = folder.finish(metrics)
    if trainer.is_world_process_zero():
        card(folder.path)
    return record


@contextmanager
def explain_out_of_memory(trainer: Trainer) -> Iterator[None]:
    """Turn an out-of-memory error into an `InputError` that names settings which need less memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
        args = trainer.args
        size, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
        remedies = ["start again with --overwrite and --gradient-checkpointing true (slower)"]
        if size > 1:
            smaller = f"--per-device-train-batch-size {size // 2} --gradient-accumulation-steps {2 * steps}"
            remedies.insert(0, f"go on with --resume {smaller} (the same result)")
        raise InputError(
            f"out of memory with batches of {size}; {', or '.join(remedies)} ({first_line(error)})"
        ) from error


def save_and_evaluate(trainer: Trainer) -> dict[str, Any]:
    """Save the model, and return its metrics on the evaluation split."""
    trainer.save_model()
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    trainer.save_state()  # contains the log, from which a report draws its curves
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in metrics.items()
        if not name.endswith(("runtime", "_per_second"))
    }


class StderrProgress(ProgressCallback):
    """The Trainer's progress bar with its log lines on standard error, because standard output is for results only."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in logs.items()}
            with suppress(OSError):  # the terminal may be closed
                tqdm.write(str(rounded), file=sys.stderr)


def log_to_stderr(trainer: Trainer) -> None:
    """Replace the callbacks that print to standard output."""
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StderrProgress)
