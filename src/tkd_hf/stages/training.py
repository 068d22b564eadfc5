"""What the training stages share: loading a model or tokenizer by name, and training into a run folder."""

import logging
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import HFValidationError
from tqdm.auto import tqdm
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..adapters import refuse_adapter
from ..data.tasks import Task
from ..errors import InputError, first_line
from ..naming import at_revision
from ..training_args import FineTuningArguments
from .run_folder import RunFolder, StageRecord


logger = logging.getLogger(__name__)

_OF_TEXTS, _OF_TOKENS = "ForSequenceClassification", "ForTokenClassification"
_CLASSIFIERS = {_OF_TEXTS: AutoModelForSequenceClassification, _OF_TOKENS: AutoModelForTokenClassification}


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id; `InputError` where there is none."""
    name, revision = at_revision(model)
    with _named(model, "tokenizer"):
        return AutoTokenizer.from_pretrained(name, revision=revision)


def load_config(model: str) -> PretrainedConfig:
    """The configuration of a folder or Hub id; `InputError` where there is none."""
    name, revision = at_revision(model)
    with _named(model, "configuration"):
        return AutoConfig.from_pretrained(name, revision=revision)


def load_classifier(model: str, problem_type: str | None = None) -> PreTrainedModel:
    """The trained classifier of a folder or Hub id: of tokens where its configuration says so, otherwise of texts.

    Args:
        model: the folder or Hub id.
        problem_type: what it is to answer, as in `Task`; by default whatever it does.

    Raises:
        InputError: where there is none, or one of the other kind, or only an encoder, whose classifier transformers
            would make up.
    """
    found, missing = _classifier(model, problem_type)
    if missing:
        raise InputError(
            f"{model!r} is no trained classifier ({', '.join(missing)} are missing); "
            "make one of it with `tkd-hf finetune`"
        )
    return found


def find_classifier(model: str, problem_type: str | None = None) -> PreTrainedModel | None:
    """As `load_classifier`, but `None` for an encoder without a classifier."""
    found, missing = _classifier(model, problem_type)
    return None if missing else found


def _classifier(model: str, problem_type: str | None) -> tuple[PreTrainedModel, list[str]]:
    """A classifier of the kind that the model's configuration names, and which of its weights are made up."""
    wanted = problem_type and _kind_for(problem_type)
    architecture = next(iter(load_config(model).architectures or ()), "")
    kind = next((kind for kind in _CLASSIFIERS if architecture.endswith(kind)), wanted or _OF_TEXTS)
    if wanted not in (None, kind):
        raise InputError(
            f"{model!r} is {architecture}, but the data asks for {problem_type}; name a model for that, or make one "
            "with `tkd-hf finetune`"
        )
    return _with_missing(_CLASSIFIERS[kind], model)


def _kind_for(problem_type: str) -> str:
    return _OF_TOKENS if problem_type == "token_classification" else _OF_TEXTS


def load_encoder(model: str) -> PreTrainedModel:
    """The encoder of a folder or Hub id, whatever head it has."""
    name, revision = at_revision(model)
    with _named(model, "model"):
        return AutoModel.from_pretrained(name, revision=revision)


def find_masked_lm(model: str) -> PreTrainedModel | None:
    """The masked language model of a folder or Hub id; `None` where its head was not trained, or there can be none."""
    if type(load_config(model)) not in MODEL_FOR_MASKED_LM_MAPPING:
        return None
    found, missing = _with_missing(AutoModelForMaskedLM, model)
    return None if missing else found


def _with_missing(auto_class: type, model: str) -> tuple[PreTrainedModel, list[str]]:
    """A model, and which of its weights are made up for want of trained ones."""
    name, revision = at_revision(model)
    with _named(model, "model"):
        found, loading = auto_class.from_pretrained(name, revision=revision, output_loading_info=True)
    return found, sorted(loading["missing_keys"])


def load_for_training(model: str, task: Task) -> PreTrainedModel:
    """A model with a classifier for the task: the model's own where it fits, otherwise a new one."""
    kind = _kind_for(task.problem_type)
    # transformers knows classifiers of tokens by their class alone
    fields = {} if kind == _OF_TOKENS else {"problem_type": task.problem_type}
    if task.label_names:
        fields |= {"id2label": dict(enumerate(task.label_names))}
        fields |= {"label2id": {name: code for code, name in enumerate(task.label_names)}}
    name, revision = at_revision(model)
    with _named(model, "model"):
        return _CLASSIFIERS[kind].from_pretrained(
            name, revision=revision, num_labels=task.num_labels, ignore_mismatched_sizes=True, **fields
        )


@contextmanager
def _named(model: str, what: str):
    try:
        refuse_adapter(*at_revision(model))
        yield
    except InputError:
        raise
    except (OSError, HFValidationError, ConnectionError, ValueError, ImportError) as error:
        raise InputError(
            f"{model!r} is neither a folder with a loadable {what} nor the Hub id of one that can be fetched: "
            f"check the name and the network ({first_line(error)})"
        ) from error


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
    folder: RunFolder, trainer: Trainer, before_saving: Callable[[Trainer], None] | None = None
) -> StageRecord:
    """Trains, from the folder's last checkpoint if it has one, and leaves there a model that loads as it is.

    Evaluates at the end; the record's metrics are those on the evaluation split plus the time of an epoch.

    Args:
        folder: where to train.
        trainer: is about to train.
        before_saving: what is to be done to the trained model before it is saved and evaluated.
    """
    log_to_stderr(trainer)
    folder.start()
    checkpoint = folder.checkpoint
    if checkpoint:
        logger.info("%s goes on from %s", folder.path, Path(checkpoint).name)
    trained = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if before_saving is not None:
        before_saving(trainer)
    trainer.save_model()
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    metrics = {name: value for name, value in metrics.items() if not name.endswith(("runtime", "_per_second"))}
    if checkpoint is None:  # the time of a resumed run is only that of its last part
        metrics["seconds_per_epoch"] = round(trained["train_runtime"] / trainer.state.epoch, 1)
    return folder.finish(
        {name: value.item() if isinstance(value, np.generic) else value for name, value in metrics.items()}
    )


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
