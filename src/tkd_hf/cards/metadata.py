"""The YAML metadata of a card: the fields that the Hub filters by, and the results in `model-index`."""

import math
import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id

from ..core.errors import InputError, first_line
from ..records.redaction import contains_token


# The relations that the Hub accepts between a model and its base_model. None of them describes distillation.
RELATIONS = ("adapter", "merge", "quantized", "finetune")
PIPELINES = ("text-classification", "token-classification", "fill-mask", "feature-extraction")
# People choose these fields. They stay as written until somebody chooses another value.
_USER_FIELDS = ("license", "language", "widget")
# The run decides these fields. If it no longer sets one, the field is removed from the card.
_RUN_FIELDS = ("base_model", "base_model_relation", "model-index", "tags", "datasets", "metrics", "pipeline_tag")
_RUN_TAGS = {"tkd", "knowledge-distillation", "pruned", "sparse", "vocabulary-pruned", "int8", "int4", "lora"}
_PEFT_VERSION = re.compile(r"### Framework versions\s+- PEFT \S+\s*")
_LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")


def merge_metadata(
    generated: dict[str, Any], existing: dict[str, Any], tags: Sequence[str] = (), **chosen: Any
) -> dict[str, Any]:
    """Return the metadata for a card that is regenerated.

    Generated fields replace existing fields. Fields and tags that people chose or added stay.

    Args:
        generated: the metadata that follows from the run.
        existing: the metadata of the existing card.
        tags: tags to add.
        chosen: new values of fields that people choose, such as `license`; `None` keeps the existing value.
    """
    added = {name: value for name, value in existing.items() if name not in _RUN_FIELDS}
    chosen |= {name: existing.get(name) for name in _USER_FIELDS if chosen.get(name) is None}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    generated_tags = {*_RUN_TAGS, *generated["tags"]}
    candidates = dict.fromkeys([*(existing.get("tags") or []), *tags])
    user_tags = [tag for tag in candidates if tag not in generated_tags]
    return {**added, **generated, **chosen, "tags": [*generated["tags"], *user_tags]}


def front_matter(metadata: dict[str, Any]) -> str:
    """Return the YAML block for the top of a card, with sorted fields."""
    ordered = dict(sorted(metadata.items()))
    return f"---\n{ModelCardData(**ordered).to_yaml()}\n---\n"


def model_index(name: str, results: list[EvalResult]) -> list[dict[str, Any]]:
    """Return results in the form that the Hub reads (`model-index`)."""
    return eval_results_to_model_index(name, results)


def read_card(content: str) -> tuple[dict[str, Any], str]:
    """Split a card into its metadata and its text.

    Raises:
        InputError: if the metadata is not valid YAML or not valid card metadata.
    """
    if not content.lstrip().startswith("---"):
        return {}, content
    try:
        card = ModelCard(content)
        return card.data.to_dict(), card.text
    except Exception as error:  # YAML and huggingface_hub raise many types here
        raise InputError(f"the metadata of the card (README.md) cannot be read: {first_line(error)}") from None


def strip_peft_template(content: str) -> tuple[dict[str, Any], str]:
    """Split a card into metadata and text, and drop what PEFT writes into it on every save.

    PEFT writes an unfilled template, its own version, and a tag with the local path of the base model.
    """
    metadata, page = read_card(content)
    page = _PEFT_VERSION.sub("", page)
    template = {line.strip() for line in ModelCard.from_template(ModelCardData()).text.splitlines()}
    if page.strip() and {line.strip() for line in page.splitlines()} <= template:
        return {}, ""
    tags = [tag for tag in metadata.get("tags") or [] if not str(tag).startswith("base_model:")]
    return {**metadata, "tags": tags}, page


def check_card(content: str) -> None:
    """Check offline whether the Hub would accept a card.

    Raises:
        InputError: if a metadata field is missing or has a wrong type or value (the message names the field), or if
            the card contains something that looks like a Hub token.
    """
    if contains_token(content):
        raise InputError(
            "the card (README.md) contains text that looks like a Hub token; remove it from the card, and revoke it"
        )
    metadata, _ = read_card(content)
    for name in ("library_name", "pipeline_tag", "tags"):
        if not metadata.get(name):
            raise _invalid(name, "is missing")
    _check_strings(metadata)
    if metadata["pipeline_tag"] not in PIPELINES:
        raise _invalid("pipeline_tag", f"is {metadata['pipeline_tag']!r}, not one of {', '.join(PIPELINES)}")
    relation = metadata.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        raise _invalid("base_model_relation", f"is {relation!r}, not one of {', '.join(RELATIONS)}")
    if relation is not None and not metadata.get("base_model"):
        raise _invalid("base_model_relation", f"is {relation!r}, but base_model is missing")
    for model in _as_list(metadata.get("base_model")):
        try:
            validate_repo_id(model)
        except HFValidationError:
            raise _invalid("base_model", f"contains {model!r}, which is not a Hub id") from None
    for language in _as_list(metadata.get("language")):
        if not _LANGUAGE.fullmatch(language):
            raise _invalid("language", f"contains {language!r}, which is not a language code such as en")
    _check_results(metadata)


def _check_strings(metadata: dict[str, Any]) -> None:
    for name in ("library_name", "pipeline_tag", "license"):
        if not isinstance(metadata.get(name, ""), str):
            raise _invalid(name, f"is {metadata[name]!r}, not a string")
    for name in ("tags", "datasets", "metrics", "base_model", "language"):
        value = metadata.get(name, [])
        must_be_list = name in ("tags", "datasets", "metrics")
        all_strings = all(isinstance(entry, str) for entry in _as_list(value))
        if not all_strings or (must_be_list and not isinstance(value, list)):
            raise _invalid(name, f"is {value!r}, not a list of strings")


def _check_results(metadata: dict[str, Any]) -> None:
    if "model-index" not in metadata:
        return
    _, results = model_index_to_eval_results(metadata["model-index"])
    for result in results:
        if not _is_finite_number(result.metric_value):
            raise _invalid("model-index", f"has {result.metric_type}={result.metric_value!r}, which is not a number")


def _is_finite_number(value: Any) -> bool:
    """Whether a value of a card's metadata is a number, and neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _invalid(name: str, problem: str) -> InputError:
    return InputError(
        f"in the card's metadata (README.md), {name} {problem}; correct it, or regenerate the card: tkd-hf card"
    )


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
