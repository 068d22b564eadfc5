"""What the training stages share: what decides a run, and training into a run folder."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils.memory import should_reduce_batch_size
from tqdm.auto import tqdm
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..callbacks import StopOnTermination
from ..errors import InputError, TrainingStopped, first_line
from ..sampling import BaseTrainer
from ..training_args import FineTuningArguments
from .run_folder import RunFolder, StageRecord


logger = logging.getLogger(__name__)


def training_arguments(args: FineTuningArguments) -> dict[str, Any]:
    """The arguments that decide a training run's result, for its record."""
    names = (
        "learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps warmup_steps "
        "weight_decay lr_scheduler_type optim seed bf16 fp16 objectives final_objectives temperature final_temperature "
        "divergence confidence_weighting top_k layer_map relation_heads"
    ).split()
    found = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    for name in ("learning_rate num_train_epochs warmup_steps weight_decay temperature final_temperature").split():
        if name in found:
            found[name] = float(found[name])  # 2 epochs are 2.0 epochs, wherever the number comes from
    return {name: value if isinstance(value, dict) else str(value) for name, value in found.items()}


def train_into(
    folder: RunFolder,
    trainer: BaseTrainer,
    before_saving: Callable[[BaseTrainer], dict[str, Any] | None] | None = None,
) -> StageRecord:
    """Trains, from the folder's last checkpoint if it has one, and leaves there a model that loads as it is.

    Evaluates at the end; the record's metrics are those on the evaluation split plus the time of an epoch.

    Args:
        folder: where to train.
        trainer: is about to train.
        before_saving: what is to be done to the trained model before it is saved and evaluated; it may give metrics of
            its own.

    Raises:
        TrainingStopped: after SIGTERM, when a checkpoint has been written.
        InputError: if memory does not suffice, or the gradient is not finite.
    """
    log_to_stderr(trainer)
    trainer.run_record = folder.record
    folder.start()
    checkpoint = folder.checkpoint
    if checkpoint:
        logger.info("%s goes on from %s", folder.path, Path(checkpoint).name)
    termination = StopOnTermination()
    trainer.add_callback(termination)
    with explain_out_of_memory(trainer):
        trained = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if termination.stopped_at is not None:
        raise TrainingStopped(
            f"stopped after step {termination.stopped_at} with a checkpoint; --resume goes on from there"
        )
    further = before_saving(trainer) if before_saving is not None else None
    metrics = save_and_evaluate(trainer) | (further or {})
    if checkpoint is None:  # the time of a resumed run is only that of its last part
        metrics["seconds_per_epoch"] = round(trained["train_runtime"] / trainer.state.epoch, 1)
    return finish_run(folder, trainer, metrics)


def finish_run(folder: RunFolder, trainer: BaseTrainer, metrics: dict[str, Any]) -> StageRecord:
    """Closes the record of a run with what was measured, and writes the card, so that the folder can be published."""
    from .card import card  # which words the arguments of this module

    record = folder.finish(metrics)
    if trainer.is_world_process_zero():
        card(folder.path)
    return record


@contextmanager
def explain_out_of_memory(trainer: Trainer) -> Iterator[None]:
    """Turns an error of memory into one line that says what takes less of it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
        args = trainer.args
        size, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
        smaller = (
            f"--per-device-train-batch-size {size // 2} --gradient-accumulation-steps {2 * steps} learns the same, "
        )
        raise InputError(
            f"out of memory with batches of {size}: {smaller if size > 1 else ''}--gradient-checkpointing true takes "
            f"less memory and more time; start again with --overwrite ({first_line(error)})"
        ) from error


def save_and_evaluate(trainer: Trainer) -> dict[str, Any]:
    """Saves the model as it is to be loaded; its metrics on the evaluation split."""
    trainer.save_model()
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    trainer.save_state()  # with the log, for the curves of a report
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in metrics.items()
        if not name.endswith(("runtime", "_per_second"))
    }


class StderrProgress(ProgressCallback):
    """The Trainer's progress bar with its log lines on standard error, so that standard output is results alone."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            short = {name: round(value, 4) if isinstance(value, float) else value for name, value in logs.items()}
            tqdm.write(str(short), file=sys.stderr)


def log_to_stderr(trainer: Trainer):
    """Replaces the callbacks that print to standard output."""
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StderrProgress)
