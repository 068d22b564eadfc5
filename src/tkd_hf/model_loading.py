"""Models and tokenizers by name: a folder, or a Hub id; and one clear line where there is none."""

import re
from contextlib import contextmanager
from pathlib import Path

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

from .adapters import refuse_adapter
from .data.tasks import Task
from .errors import InputError, first_line
from .labels import check_label_codes, classifier_problem_type
from .model_names import split_revision
from .untrusted import NO_CODE, NO_PICKLES, check_attention_kernel, check_weight_files


_OF_TEXTS, _OF_TOKENS = "ForSequenceClassification", "ForTokenClassification"
_CLASSIFIERS = {_OF_TEXTS: AutoModelForSequenceClassification, _OF_TOKENS: AutoModelForTokenClassification}
_OF_LAYERS = re.compile(r"\blayers?\.\d+\.")


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id; `InputError` where there is none."""
    name, revision = split_revision(model)
    with _named(model, "tokenizer"):
        found = AutoTokenizer.from_pretrained(name, revision=revision, **NO_CODE)
        if len(found) <= len(found.all_special_ids):  # what transformers makes up where there are no files
            raise InputError(f"the tokenizer of {model!r} knows no words; save the model's own beside it")
        last, rows = max(found.get_vocab().values()), _embeddings(name, revision)
        if rows is not None and last >= rows:
            raise InputError(
                f"the tokenizer of {model!r} has a token number {last}, the model only {rows} word embeddings; save "
                "the model's own tokenizer beside it, or resize_token_embeddings"
            )
        return found


def _embeddings(name: str, revision: str | None) -> int | None:
    """Rows of a model's word embeddings, as far as its configuration says; `None` for a tokenizer by itself."""
    try:
        return getattr(AutoConfig.from_pretrained(name, revision=revision, **NO_CODE), "vocab_size", None)
    except (OSError, ValueError):
        return None


def load_config(model: str) -> PretrainedConfig:
    """The configuration of a folder or Hub id; `InputError` where there is none."""
    name, revision = split_revision(model)
    with _named(model, "configuration"):
        config = AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
        check_attention_kernel(config, model)
        check_label_codes(config, model)
        return config


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
        some = f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
        raise InputError(
            f"{model!r} is no trained classifier ({some} are missing); make one of it with `tkd-hf finetune`"
        )
    return found


def load_classifier_if_trained(model: str, problem_type: str | None = None) -> PreTrainedModel | None:
    """As `load_classifier`, but `None` for an encoder without a classifier."""
    found, missing = _classifier(model, problem_type)
    return None if missing else found


def _classifier(model: str, problem_type: str | None) -> tuple[PreTrainedModel, list[str]]:
    """A classifier of the kind that the model's configuration names, and which of its weights are made up."""
    found, missing = _with_missing(classifier_class(load_config(model), problem_type, model), model)
    scores = classifier_problem_type(found.config) == "regression"
    if not missing and problem_type and scores != (problem_type == "regression"):
        gives = "a score" if scores else f"one of {found.config.num_labels} classes"
        wants = "scores" if problem_type == "regression" else "classes"
        raise InputError(
            f"{model!r} answers with {gives}, but the labels of the data are {wants}; name a model for them, or "
            "write the labels as names"
        )
    return found, missing


def classifier_class(config: PretrainedConfig, problem_type: str | None = None, model: str = "the model") -> type:
    """The Auto class of a classifier's configuration: of tokens where that says so, otherwise of texts.

    Args:
        config: the configuration.
        problem_type: what it is to answer, as in `Task`; decides for what has no classifier yet.
        model: what to call it in the message.

    Raises:
        InputError: if it answers something else.
    """
    wanted = problem_type and _kind_for(problem_type)
    architecture = next(iter(config.architectures or ()), "")
    kind = next((kind for kind in _CLASSIFIERS if architecture.endswith(kind)), wanted or _OF_TEXTS)
    if wanted not in (None, kind):
        raise InputError(
            f"{model!r} is {architecture}, but the data asks for {problem_type}; name a model for that, or make one "
            "with `tkd-hf finetune`"
        )
    return _CLASSIFIERS[kind]


def _kind_for(problem_type: str) -> str:
    return _OF_TOKENS if problem_type == "token_classification" else _OF_TEXTS


def load_encoder(model: str) -> PreTrainedModel:
    """The encoder of a folder or Hub id, whatever head it has."""
    name, revision = split_revision(model)
    load_config(model)  # says what is wrong with it
    with _named(model, "model"):
        return AutoModel.from_pretrained(name, revision=revision, **NO_PICKLES)


def load_masked_lm_if_trained(model: str) -> PreTrainedModel | None:
    """The masked language model of a folder or Hub id; `None` where its head was not trained, or there can be none."""
    if type(load_config(model)) not in MODEL_FOR_MASKED_LM_MAPPING:
        return None
    found, missing = _with_missing(AutoModelForMaskedLM, model)
    return None if missing else found


def quantized_by(model: PreTrainedModel | PretrainedConfig) -> str | None:
    """Which library quantized the weights of a model, as its configuration has it: `"bitsandbytes"`, `"quanto"` …

    Args:
        model: the model, or its configuration.

    Example:

    ```python
    >>> from tkd_hf import TKDConfig
    >>> from tkd_hf.model_loading import quantized_by
    >>> print(quantized_by(TKDConfig()))
    None
    >>> quantized_by(TKDConfig(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}))
    'bitsandbytes'

    ```
    """
    found = getattr(getattr(model, "config", model), "quantization_config", None)
    if found is None:
        return None
    method = found["quant_method"] if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


def refuse_quantized(model: PreTrainedModel | PretrainedConfig, to_do: str, name: str | None = None) -> None:
    """Refuses what is done to weights in floats where they are not.

    Args:
        model: the model, or its configuration.
        to_do: what is to be done, such as `"quantize"`.
        name: what to call the model; by default where it was loaded from.

    Raises:
        InputError: if the weights are quantized.
    """
    if library := quantized_by(model):
        name = name or getattr(model, "name_or_path", "") or type(model).__name__
        raise InputError(f"{name!r} is quantized already, by {library}; {to_do} the float model that it was made of")


def _with_missing(auto_class: type, model: str) -> tuple[PreTrainedModel, list[str]]:
    """A model, and which of its weights are made up for want of trained ones."""
    name, revision = split_revision(model)
    library = quantized_by(load_config(model))
    if library == "bitsandbytes":
        from .quantization.bitsandbytes import silence_cast_warning

        silence_cast_warning()
    with _named(model, "model"):
        if library == "quanto":
            from .quantization import quanto

            return quanto.load(name, revision), []
        found, loading = auto_class.from_pretrained(name, revision=revision, output_loading_info=True, **NO_PICKLES)
        # heads that are not asked for may be left over, but not parts of the encoder
        if left := sorted(key for key in loading["unexpected_keys"] if _OF_LAYERS.search(key)):
            raise InputError(
                f"{model!r} holds weights of layers that its configuration does not have ({left[0]} and "
                f"{len(left) - 1} more); correct num_hidden_layers in its config.json"
            )
    return found, sorted(loading["missing_keys"])


def load_for_training(model: str, task: Task) -> PreTrainedModel:
    """A model with a classifier for the task: the model's own where it fits, otherwise a new one.

    Raises:
        InputError: where there is none, or its weights are quantized, which no optimizer can change.
    """
    refuse_quantized(load_config(model), "train", model)
    kind = _kind_for(task.problem_type)
    # transformers knows classifiers of tokens by their class alone
    fields = {} if kind == _OF_TOKENS else {"problem_type": task.problem_type}
    if task.label_names:
        fields |= {"id2label": dict(enumerate(task.label_names))}
        fields |= {"label2id": {name: code for code, name in enumerate(task.label_names)}}
    name, revision = split_revision(model)
    with _named(model, "model"):
        return _CLASSIFIERS[kind].from_pretrained(
            name, revision=revision, num_labels=task.num_labels, ignore_mismatched_sizes=True, **NO_PICKLES, **fields
        )


def local_path(model: str) -> Path:
    """The folder or file of a model or of an export, fetched where it lies within a repository of the Hub.

    Args:
        model: a folder or file; `org/model/place/within`; or `org/model`, of which only an OpenVINO export is fetched:
            transformers fetches its weights by itself.
    """
    name, revision = split_revision(model)
    if Path(name).exists():
        return Path(name)
    repository, inside = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    patterns = ["*.json", "*.txt", f"{inside}*" if inside else "openvino_model.*"]
    with _named(model, "model"):
        if not inside and not _on_hub(repository, "openvino_model.xml", revision):
            return Path(name)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns), inside)


def _on_hub(repository: str, file: str, revision: str | None) -> bool:
    try:
        return file_exists(repository, file, revision=revision)
    except (OSError, HfHubHTTPError):  # no network: what is in the cache has to do
        return isinstance(try_to_load_from_cache(repository, file, revision=revision), str)


def weight_files(model: str) -> list[Path]:
    """The files of a model's PyTorch weights, of a Hub id those in the cache; none for an export."""
    name, revision = split_revision(model)
    folder = Path(name)
    if not folder.exists() and name.count("/") < 2:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        folder = Path(config).parent if isinstance(config, str) else folder
    return sorted(folder.glob("*.safetensors"))


@contextmanager
def _named(model: str, what: str):
    try:
        refuse_adapter(*split_revision(model))
        check_weight_files(split_revision(model)[0])
        yield
    except InputError:
        raise
    except Exception as error:  # files of strangers fail at every depth, each library in its own way
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{model!r} brings code of its own, which no command runs; read it, load the model in Python with "
                "trust_remote_code=True and a pinned revision, and give it to DistillationTrainer"
            ) from error
        if (
            not isinstance(error, (OSError, HFValidationError))
            and Path(split_revision(model)[0], "config.json").exists()
        ):
            shapes = "its weights have other shapes than its config.json says"
            reason = shapes if "ignore_mismatched_sizes" in str(error) else first_line(error)
            raise InputError(f"the {what} in {model!r} cannot be loaded: {reason}") from error
        raise InputError(
            f"{model!r} is neither a folder with a loadable {what} nor the Hub id of one that can be fetched: "
            f"check the name and the network ({first_line(error)})"
        ) from error
