"""Load models, tokenizers and configurations from a folder or the Hub; no other module calls transformers for that.

What is checked here is therefore checked by every command, each with a one-line error:

- The folder holds a model, not an adapter; its weights are safetensors, all inside the folder; no code is run, and no
  attention kernel is downloaded (`tkd_hf.models.checks`).
- The configuration does not contradict itself about labels; the model solves the problem that the data asks for.
- The files hold every weight of the encoder, under its name and in its shape, and no layers that the configuration
  does not have. Only a new head may be initialised at random, and that is logged.
- Weights in half precision are loaded in float32, because training and exports need it: steps smaller than the
  precision change no weight. `dtype="auto"` keeps them.
- The tokenizer has a vocabulary that fits the word embeddings (which may have more rows), a padding token, and no token
  types that the model lacks.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import file_exists, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..core.errors import InputError, first_line
from ..core.names import POSITIONS, check_label_codes, split_revision
from ..data.problem_types import ProblemType
from ..data.tasks import Task
from .architectures import AUTO_CLASSES, AutoClass, is_convertible, max_input_length
from .backends import BACKENDS, load_pretrained
from .checks import (
    NO_CODE,
    add_padding_token,
    check_attention_kernel,
    check_weight_files,
    check_weights,
    drop_unknown_token_types,
    refuse_adapter,
)
from .quantized import quantized_by, refuse_quantized


logger = logging.getLogger(__name__)


def load_config(model: str, of_adapter: bool = False) -> PretrainedConfig:
    """Load the configuration of a folder or Hub id, and check that it is safe and consistent.

    Args:
        model: a folder, or a Hub id, optionally at a revision (`org/model@revision`).
        of_adapter: accept the folder of an adapter, which may hold the configuration of the merged model.

    Raises:
        InputError: if it cannot be loaded, requests code from elsewhere, or contradicts itself about labels.
    """
    name, revision = split_revision(model)
    with _loading_errors(model, "configuration", of_adapter):
        config = AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
        check_attention_kernel(config, model)
        check_label_codes(config, model)
        return config


def load_tokenizer(model: str, of_adapter: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or Hub id, and check that it fits the model.

    Args:
        model: a folder, or a Hub id, optionally at a revision (`org/model@revision`).
        of_adapter: accept the folder of an adapter.

    Raises:
        InputError: if it cannot be loaded, if it has no vocabulary or no padding token, or if the model has fewer word
            embeddings than the tokenizer has tokens.
    """
    name, revision = split_revision(model)
    with _loading_errors(model, "tokenizer", of_adapter):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, **NO_CODE)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers returns such a tokenizer for missing files
            raise InputError(f"the tokenizer of {model!r} has no vocabulary; save the model's own tokenizer next to it")
        config = _config_if_any(name, revision)
        largest_id, num_embeddings = max(tokenizer.get_vocab().values()), getattr(config, "vocab_size", None)
        if num_embeddings is not None and largest_id >= num_embeddings:
            raise InputError(
                f"the tokenizer of {model!r} has a token with id {largest_id}, but the model has only {num_embeddings} "
                "word embeddings; save the model's own tokenizer next to it, or use resize_token_embeddings"
            )
        add_padding_token(tokenizer, config, model)
        drop_unknown_token_types(tokenizer, config)
        if config is not None:  # `check_max_length` asks for it
            setattr(tokenizer, POSITIONS, max_input_length(config))
        return tokenizer


def reload_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that this process has just saved, as it is: it gets no padding token and meets no check."""
    return AutoTokenizer.from_pretrained(folder, **NO_CODE)


def _config_if_any(name: str, revision: str | None) -> PretrainedConfig | None:
    """Return a model's configuration; `None` for a folder that holds only a tokenizer."""
    try:
        return AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
    except (OSError, ValueError):
        return None


def load_classifier(
    model: str, problem_type: str | None = None, dtype: torch.dtype | str = torch.float32
) -> PreTrainedModel:
    """Load a trained classifier of tokens, if its configuration says so, or else of texts.

    Args:
        model: a folder, or a Hub id, optionally at a revision (`org/model@revision`).
        problem_type: the problem type that the classifier must have, as in `Task`; by default any.
        dtype: dtype of the weights; `"auto"` for that of the file. Quantized weights stay as they are.

    Raises:
        InputError: if it cannot be loaded, if it has another problem type, or if its classifier was never trained:
            transformers would initialise that at random.
    """
    classifier, initialised = _load_any_classifier(model, problem_type, dtype)
    _refuse_untrained(initialised, model)
    return classifier


def load_classifier_with_tokenizer(
    model: str, problem_type: str | None = None, dtype: torch.dtype | str = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a classifier as `load_classifier` does, and its tokenizer."""
    return load_classifier(model, problem_type, dtype), load_tokenizer(model)


def load_classifier_if_trained(model: str, problem_type: str | None = None) -> PreTrainedModel | None:
    """Load a classifier as `load_classifier` does; return `None` for an encoder without a trained classifier."""
    classifier, initialised = _load_any_classifier(model, problem_type, torch.float32)
    return None if initialised else classifier


def _load_any_classifier(
    model: str, problem_type: str | None, dtype: torch.dtype | str
) -> tuple[PreTrainedModel, list[str]]:
    """Load a classifier with the head that its configuration names, and list the weights missing from its files."""
    auto_class = classifier_class(load_config(model), problem_type, model)
    classifier, initialised = _load(auto_class, model, dtype=dtype)
    gives_scores = ProblemType.of_classifier(classifier.config).has_scores
    wants_scores = problem_type is not None and ProblemType(problem_type).has_scores
    if not initialised and problem_type and gives_scores != wants_scores:
        prediction = "a score" if gives_scores else f"one of {classifier.config.num_labels} classes"
        labels = "scores" if wants_scores else "classes"
        raise InputError(
            f"{model!r} predicts {prediction}, but the labels of the data are {labels}; use a model that predicts "
            f"{labels}, or write the labels as names"
        )
    return classifier, initialised


def _refuse_untrained(initialised: list[str], model: str) -> None:
    if initialised:
        names, num_unnamed = ", ".join(initialised[:3]), len(initialised[3:])
        names += f" and {num_unnamed} more" if num_unnamed else ""
        raise InputError(
            f"{model!r} is not a trained classifier ({names} are missing); train it with `tkd-hf finetune` first"
        )


def classifier_class(config: PretrainedConfig, problem_type: str | None = None, model: str = "the model") -> AutoClass:
    """Return the Auto class that loads a classifier: of tokens, if its configuration says so, or else of texts.

    Args:
        config: the model's configuration.
        problem_type: the problem type that the classifier must have, as in `Task`. It decides the class of a model
            without a classifier.
        model: the model's name for the error message.

    Raises:
        InputError: if the model is a classifier for another problem type.
    """
    required = None if problem_type is None else ProblemType(problem_type)
    architecture = next(iter(config.architectures or ()), "")
    classifiers = (ProblemType.SINGLE_LABEL, ProblemType.TOKEN_CLASSIFICATION)
    own = next((member for member in classifiers if architecture.endswith(member.head)), None)
    if own and required and own.head != required.head:
        raise InputError(
            f"{model!r} is {architecture}, but the data asks for {problem_type}; name a model for that, or train one "
            "with `tkd-hf finetune`"
        )
    return AUTO_CLASSES[(own or required or ProblemType.SINGLE_LABEL).head]


def load_for_training(model: str, task: Task) -> PreTrainedModel:
    """Load a model with a classifier for a task: its own if the shapes match, or else a new one.

    Args:
        model: a folder, or a Hub id, optionally at a revision (`org/model@revision`).
        task: gives the problem type and the labels.

    Raises:
        InputError: if the model cannot be loaded, or if its weights are quantized, which optimizers cannot train.
    """
    refuse_quantized(load_config(model), "train", model)
    # transformers recognises classifiers of tokens by their class and has no problem type for them
    fields: dict[str, Any] = {"problem_type": task.problem_type.value} if task.problem_type.in_config else {}
    if task.label_names:
        fields["id2label"] = dict(enumerate(task.label_names))
        fields["label2id"] = {name: index for index, name in enumerate(task.label_names)}
    fields["num_labels"] = task.num_labels
    return load_with_head(model, task.problem_type.head, new_head=True, ignore_mismatched_sizes=True, **fields)


def load_with_head(model: str | os.PathLike, head: str, *, new_head: bool = False, **options: Any) -> PreTrainedModel:
    """Load a model with one kind of head.

    Args:
        model: a folder, or a Hub id, optionally at a revision (`org/model@revision`).
        head: suffix of the class name, from `tkd_hf.models.architectures.AUTO_CLASSES`; `"Model"` for none.
        new_head: accept a head that the files lack. It is initialised at random, and the log says so.
        options: more arguments of `from_pretrained`, such as fields of the configuration.

    Raises:
        InputError: if the model cannot be loaded, or if its head was never trained.
    """
    loaded, initialised = _load(AUTO_CLASSES[head], str(model), **options)
    if initialised and new_head:
        logger.info("%s: new head, initialised at random: %s", model, ", ".join(initialised))
    elif initialised and head != ProblemType.ENCODER.head:  # a pooler that was never trained is not used
        _refuse_untrained(initialised, str(model))
    return loaded


def load_encoder(model: str) -> PreTrainedModel:
    """Load the encoder of a folder or Hub id without its head.

    Raises:
        InputError: if it cannot be loaded.
    """
    return _load(AUTO_CLASSES["Model"], model)[0]


def load_masked_lm_if_trained(model: str) -> PreTrainedModel | None:
    """Load a masked language model; return `None` if the model has no trained masked-LM head.

    Raises:
        InputError: if the model cannot be loaded.
    """
    if type(load_config(model)) not in MODEL_FOR_MASKED_LM_MAPPING:
        return None
    masked_lm, initialised = _load(AUTO_CLASSES["ForMaskedLM"], model)
    return None if initialised else masked_lm


def _load(
    auto_class: AutoClass, model: str, *, dtype: torch.dtype | str = torch.float32, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Load a model, and list the weights of its head that its files lack and transformers initialised at random."""
    name, revision = split_revision(model)
    config = load_config(model)  # raises clearer errors than loading the model
    library = quantized_by(config)
    with _loading_errors(model, "model"):
        if library in BACKENDS:  # the dtypes of quantized weights are part of their format
            loaded, info = BACKENDS[library].load(auto_class, name, revision, **options)
        else:
            dtypes = {} if library else {"dtype": dtype}
            loaded, info = load_pretrained(auto_class, name, revision, **dtypes, **options)
        initialised = check_weights(loaded, info, model)
    if getattr(config, "pad_token_id", None) is None and not is_convertible(config) and hasattr(loaded, "num_labels"):
        loaded.config.pad_token_id = load_tokenizer(model).pad_token_id  # decoders find the end of a text with it
    return loaded, initialised


def commit_of(model: PreTrainedModel) -> str | None:
    """Return the commit that a model was loaded from; `None` if it does not come from the Hub."""
    # `from_pretrained` sets it, and it has no public name:
    # https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/configuration_utils.py
    return getattr(model.config, "_commit_hash", None)


def local_path(model: str) -> Path:
    """Return the local path of a model or export, after downloading it if it is inside a Hub repository.

    Args:
        model: a local folder or file; `org/model/path/inside` of a Hub repository; or `org/model`. From the last, only
            a `root_export` of a backend is downloaded, because transformers downloads PyTorch weights itself.

    Raises:
        InputError: if it cannot be downloaded.
    """
    name, revision = split_revision(model)
    if Path(name).exists():
        return Path(name)
    repository, inside = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    with _loading_errors(model, "model"):
        if inside:
            files = f"{inside}*"
        else:
            root_exports = (backend.root_export for backend in BACKENDS.values() if backend.root_export)
            export = next((file for file in root_exports if _on_hub(repository, file, revision)), None)
            if export is None:
                return Path(name)
            files = f"{Path(export).stem}.*"  # an OpenVINO graph has its weights in a file of the same stem
        return Path(snapshot_download(repository, revision=revision, allow_patterns=["*.json", "*.txt", files]), inside)


def model_folder(model: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a model; all files of a Hub id are downloaded."""
    return Path(model) if Path(model).is_dir() else Path(snapshot_download(str(model), revision=revision))


def _on_hub(repository: str, file: str, revision: str | None) -> bool:
    try:
        return file_exists(repository, file, revision=revision)
    except (OSError, HfHubHTTPError):  # without a network, look into the cache
        return isinstance(try_to_load_from_cache(repository, file, revision=revision), str)


def weight_files(model: str) -> list[Path]:
    """Return the paths of a model's PyTorch weights, in the cache for a Hub id; empty for an export."""
    name, revision = split_revision(model)
    folder = Path(name)
    if not folder.exists() and name.count("/") < 2:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        folder = Path(config).parent if isinstance(config, str) else folder
    return sorted(folder.glob("*.safetensors"))


@contextmanager
def _loading_errors(model: str, part: str, of_adapter: bool = False) -> Iterator[None]:
    """Check a model for unsafe files first, then turn any error from loading a part of it into one clear line."""
    try:
        if not of_adapter:
            refuse_adapter(*split_revision(model))
        check_weight_files(split_revision(model)[0])
        yield
    except InputError:
        raise
    except Exception as error:  # damaged files raise all kinds of errors, as each library has its own
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{model!r} contains custom code, which the commands never run; review it, load the model in Python "
                "with trust_remote_code=True and a pinned revision, and give it to DistillationTrainer"
            ) from error
        if (
            not isinstance(error, (OSError, HFValidationError))
            and Path(split_revision(model)[0], "config.json").exists()
        ):
            reason = first_line(error)
            if "ignore_mismatched_sizes" in str(error):
                reason = "the shapes of its weights differ from those in its config.json"
            raise InputError(f"the {part} in {model!r} cannot be loaded: {reason}") from error
        raise InputError(
            f"{model!r} is neither a folder with a loadable {part} nor the Hub id of one that can be downloaded: "
            f"check the name and the network ({first_line(error)})"
        ) from error
