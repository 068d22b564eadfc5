"""Load models and tokenizers from a folder or the Hub, with a one-line error if that fails."""

import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import file_exists, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
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
)

from ..core.errors import InputError, first_line
from ..core.names import check_label_codes, split_revision
from ..core.untrusted import NO_CODE, NO_PICKLES, check_attention_kernel, check_weight_files
from ..data.problem_types import ProblemType
from ..data.tasks import Task
from .backends import BACKENDS, load_pretrained
from .lora import refuse_adapter
from .quantized import quantized_by, refuse_quantized


AutoClass = type[Any]  # the Auto classes of transformers have no public base class
AUTO_CLASSES: dict[ProblemType, AutoClass] = {
    ProblemType.SINGLE_LABEL: AutoModelForSequenceClassification,
    ProblemType.MULTI_LABEL: AutoModelForSequenceClassification,
    ProblemType.REGRESSION: AutoModelForSequenceClassification,
    ProblemType.TOKEN_CLASSIFICATION: AutoModelForTokenClassification,
    ProblemType.MASKED_LM: AutoModelForMaskedLM,
    ProblemType.ENCODER: AutoModel,
}
_LAYER_WEIGHT = re.compile(r"\blayers?\.\d+\.")


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or Hub id, and check that it fits the model.

    Args:
        model: a folder, or a Hub id, optionally at a revision (`org/model@revision`).

    Raises:
        InputError: if it cannot be loaded, if it has no vocabulary, or if the model has fewer word embeddings than the
            tokenizer has tokens.
    """
    name, revision = split_revision(model)
    with _loading_errors(model, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, **NO_CODE)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers returns such a tokenizer for missing files
            raise InputError(f"the tokenizer of {model!r} has no vocabulary; save the model's own tokenizer next to it")
        largest_id, num_embeddings = max(tokenizer.get_vocab().values()), _num_word_embeddings(name, revision)
        if num_embeddings is not None and largest_id >= num_embeddings:
            raise InputError(
                f"the tokenizer of {model!r} has a token with id {largest_id}, but the model has only {num_embeddings} "
                "word embeddings; save the model's own tokenizer next to it, or use resize_token_embeddings"
            )
        return tokenizer


def _num_word_embeddings(name: str, revision: str | None) -> int | None:
    """Return the vocabulary size in a model's configuration; `None` for a folder that holds only a tokenizer."""
    try:
        return getattr(AutoConfig.from_pretrained(name, revision=revision, **NO_CODE), "vocab_size", None)
    except (OSError, ValueError):
        return None


def load_config(model: str) -> PretrainedConfig:
    """Load the configuration of a folder or Hub id, and check that it is safe and consistent.

    Raises:
        InputError: if it cannot be loaded, requests code from elsewhere, or contradicts itself about labels.
    """
    name, revision = split_revision(model)
    with _loading_errors(model, "configuration"):
        config = AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
        check_attention_kernel(config, model)
        check_label_codes(config, model)
        return config


def load_classifier(model: str, problem_type: str | None = None) -> PreTrainedModel:
    """Load a trained classifier of tokens, if its configuration says so, or else of texts.

    Args:
        model: a folder, or a Hub id, optionally at a revision (`org/model@revision`).
        problem_type: the problem type that the classifier must have, as in `Task`; by default any.

    Raises:
        InputError: if it cannot be loaded, if it has another problem type, or if its classifier was never trained:
            transformers would initialise that at random.
    """
    classifier, missing_weights = _load_any_classifier(model, problem_type)
    if missing_weights:
        names, num_unnamed = ", ".join(missing_weights[:3]), len(missing_weights[3:])
        if num_unnamed:
            names += f" and {num_unnamed} more"
        raise InputError(
            f"{model!r} is not a trained classifier ({names} are missing); train it with `tkd-hf finetune` first"
        )
    return classifier


def load_classifier_if_trained(model: str, problem_type: str | None = None) -> PreTrainedModel | None:
    """Load a classifier as `load_classifier` does; return `None` for an encoder without a trained classifier."""
    classifier, missing_weights = _load_any_classifier(model, problem_type)
    return None if missing_weights else classifier


def _load_any_classifier(model: str, problem_type: str | None) -> tuple[PreTrainedModel, list[str]]:
    """Load a classifier with the head that its configuration names, and list the weights missing from its files."""
    auto_class = classifier_class(load_config(model), problem_type, model)
    classifier, missing_weights = _load_with_missing_weights(auto_class, model)
    gives_scores = ProblemType.of_classifier(classifier.config).has_scores
    wants_scores = problem_type is not None and ProblemType(problem_type).has_scores
    if not missing_weights and problem_type and gives_scores != wants_scores:
        prediction = "a score" if gives_scores else f"one of {classifier.config.num_labels} classes"
        labels = "scores" if wants_scores else "classes"
        raise InputError(
            f"{model!r} predicts {prediction}, but the labels of the data are {labels}; use a model that predicts "
            f"{labels}, or write the labels as names"
        )
    return classifier, missing_weights


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
    return AUTO_CLASSES[own or required or ProblemType.SINGLE_LABEL]


def load_encoder(model: str) -> PreTrainedModel:
    """Load the encoder of a folder or Hub id without its head.

    Raises:
        InputError: if it cannot be loaded.
    """
    name, revision = split_revision(model)
    load_config(model)  # raises clearer errors than loading the model
    with _loading_errors(model, "model"):
        return AutoModel.from_pretrained(name, revision=revision, **NO_PICKLES)


def load_masked_lm_if_trained(model: str) -> PreTrainedModel | None:
    """Load a masked language model; return `None` if the model has no trained masked-LM head.

    Raises:
        InputError: if the model cannot be loaded.
    """
    if type(load_config(model)) not in MODEL_FOR_MASKED_LM_MAPPING:
        return None
    masked_lm, missing_weights = _load_with_missing_weights(AutoModelForMaskedLM, model)
    return None if missing_weights else masked_lm


def _load_with_missing_weights(auto_class: AutoClass, model: str) -> tuple[PreTrainedModel, list[str]]:
    """Load a model, and list the weights that its files lack and transformers initialised at random."""
    name, revision = split_revision(model)
    backend = BACKENDS.get(quantized_by(load_config(model)) or "")
    load = backend.load if backend else load_pretrained
    with _loading_errors(model, "model"):
        loaded, info = load(auto_class, name, revision)
        # Weights of another head may be unused, but not weights of the encoder.
        if unused := sorted(key for key in info["unexpected_keys"] if _LAYER_WEIGHT.search(key)):
            raise InputError(
                f"{model!r} holds weights of layers that its configuration does not have ({unused[0]} and "
                f"{len(unused) - 1} more); correct num_hidden_layers in its config.json"
            )
    return loaded, sorted(info["missing_keys"])


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
        fields |= {"id2label": dict(enumerate(task.label_names))}
        fields |= {"label2id": {name: index for index, name in enumerate(task.label_names)}}
    name, revision = split_revision(model)
    with _loading_errors(model, "model"):
        return AUTO_CLASSES[task.problem_type].from_pretrained(
            name, revision=revision, num_labels=task.num_labels, ignore_mismatched_sizes=True, **NO_PICKLES, **fields
        )


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
def _loading_errors(model: str, part: str):
    """Check a model for unsafe files first, then turn any error from loading a part of it into one clear line."""
    try:
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
