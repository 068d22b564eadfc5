"""The metadata of a card (YAML): what the Hub searches by, and its figures (`model-index`)."""

import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id

from ..errors import InputError, first_line
from .redaction import contains_token


# what the Hub knows; a student that was distilled is none of them, and says nothing
RELATIONS = ("adapter", "merge", "quantized", "finetune")
PIPELINES = ("text-classification", "token-classification", "fill-mask", "feature-extraction")
# what people choose: stays as they wrote it, unless it is chosen anew
_CHOSEN = ("license", "language", "widget")
# what the run alone says, and what goes where it says it no more
_OWN = ("base_model", "base_model_relation", "model-index", "tags", "datasets", "metrics", "pipeline_tag")
_OWN_TAGS = {"tkd", "knowledge-distillation", "pruned", "sparse", "vocabulary-pruned", "int8", "int4", "lora"}
_PEFT_VERSION = re.compile(r"### Framework versions\s+- PEFT \S+\s*")
_LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")


def merge_metadata(
    found: dict[str, Any], existing: dict[str, Any], tags: Sequence[str] = (), **chosen: Any
) -> dict[str, Any]:
    """Metadata of a card that is written anew.

    What the run says takes the place of what was there; what people chose or added stays, tags among it.

    Args:
        found: what the run says.
        existing: the metadata of the card that is there.
        tags: to be added.
        chosen: what is asked for now; `None` leaves it as it is.
    """
    added = {name: value for name, value in existing.items() if name not in _OWN}
    chosen |= {name: existing.get(name) for name in _CHOSEN if chosen.get(name) is None}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    known = {*_OWN_TAGS, *found["tags"]}
    theirs = [tag for tag in dict.fromkeys([*(existing.get("tags") or []), *tags]) if tag not in known]
    return {**added, **found, **chosen, "tags": [*found["tags"], *theirs]}


def front_matter(metadata: dict[str, Any]) -> str:
    """The YAML at the head of a card, in an order of its own."""
    ordered = dict(sorted(metadata.items()))
    return f"---\n{ModelCardData(**ordered).to_yaml()}\n---\n"


def model_index(name: str, results: list[EvalResult]) -> list[dict[str, Any]]:
    """Figures as the Hub reads them."""
    return eval_results_to_model_index(name, results)


def read_card(content: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card; `InputError` where its metadata cannot be read."""
    if not content.lstrip().startswith("---"):
        return {}, content
    try:
        card = ModelCard(content)
        return card.data.to_dict(), card.text
    except Exception as error:  # of YAML, or of what huggingface_hub makes of it
        raise InputError(f"the metadata of the card (README.md) cannot be read: {first_line(error)}") from None


def strip_peft_template(content: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card without what PEFT puts there whenever it saves: an unfilled template, its own
    version, and where the base lies on this machine.
    """
    metadata, page = read_card(content)
    page = _PEFT_VERSION.sub("", page)
    template = {line.strip() for line in ModelCard.from_template(ModelCardData()).text.splitlines()}
    if page.strip() and {line.strip() for line in page.splitlines()} <= template:
        return {}, ""
    tags = [tag for tag in metadata.get("tags") or [] if not str(tag).startswith("base_model:")]
    return {**metadata, "tags": tags}, page


def check_card(content: str) -> None:
    """Whether the Hub would take a card, as far as can be told without it.

    Raises:
        InputError: naming the field that is missing or of a wrong type; or if the card holds a token.
    """
    if contains_token(content):
        raise InputError("the card (README.md) holds what looks like a token of the Hub; take it out, and revoke it")
    found, _ = read_card(content)
    for name in ("library_name", "pipeline_tag", "tags"):
        if not found.get(name):
            raise _wrong(name, "is missing")
    _check_texts(found)
    if found["pipeline_tag"] not in PIPELINES:
        raise _wrong("pipeline_tag", f"is {found['pipeline_tag']!r}, not one of {', '.join(PIPELINES)}")
    relation = found.get("base_model_relation")
    if relation is not None and (relation not in RELATIONS or not found.get("base_model")):
        raise _wrong("base_model_relation", f"is {relation!r}, not one of {', '.join(RELATIONS)} beside a base_model")
    for model in _listed(found.get("base_model")):
        try:
            validate_repo_id(model)
        except HFValidationError:
            raise _wrong("base_model", f"names {model!r}, which is no Hub id") from None
    for language in _listed(found.get("language")):
        if not _LANGUAGE.fullmatch(language):
            raise _wrong("language", f"names {language!r}, which is no code such as en")
    _check_results(found)


def _check_texts(found: dict[str, Any]) -> None:
    for name in ("library_name", "pipeline_tag", "license"):
        if not isinstance(found.get(name, ""), str):
            raise _wrong(name, f"is {found[name]!r}, not a text")
    for name in ("tags", "datasets", "metrics", "base_model", "language"):
        value = found.get(name, [])
        lists_only = name in ("tags", "datasets", "metrics")
        if not all(isinstance(one, str) for one in _listed(value)) or (lists_only and not isinstance(value, list)):
            raise _wrong(name, f"is {value!r}, not a list of texts")


def _check_results(found: dict[str, Any]) -> None:
    if "model-index" not in found:
        return
    _, results = model_index_to_eval_results(found["model-index"])
    for result in results:
        if not isinstance(result.metric_value, (int, float)) or isinstance(result.metric_value, bool):
            raise _wrong("model-index", f"has {result.metric_type}={result.metric_value!r}, which is no number")


def _wrong(name: str, what: str) -> InputError:
    return InputError(f"the card's metadata (README.md): {name} {what}; put it right, or write it anew: tkd-hf card")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
