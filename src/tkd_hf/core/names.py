"""Names: of models (a folder, or a Hub id with a revision) and of labels, which are aligned by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from .errors import InputError


# The attribute in which a tokenizer carries the number of tokens that its model reads.
POSITIONS = "max_positions"


def label_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Return a model's label names in the order of its logits; empty for regression, whose score has no name."""
    if config.num_labels == 1:
        return ()
    id2label: dict[Any, Any] = config.id2label or {}  # transformers converts its keys to integers
    return tuple(str(id2label[index]) for index in range(len(id2label)))


def check_label_codes(config: PretrainedConfig, model: str) -> None:
    """Check that `id2label` and `label2id` agree if they have the same names.

    Different names are allowed, as transformers fills a missing `label2id` with LABEL_0, LABEL_1 and so on.

    Args:
        config: the model's configuration.
        model: the model's name for the error message.

    Raises:
        InputError: if the two give the same name different indices.
    """
    # Some configurations hold numbers for names, or texts for codes.
    id2label = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    label2id = {str(name): _code(index) for name, index in (config.label2id or {}).items()}
    same_names = set(id2label.values()) == set(label2id)
    if same_names and any(label2id[name] != index for index, name in id2label.items()):
        raise InputError(
            f"id2label={id2label} and label2id={label2id} of {model!r} contradict each other; correct one of them"
        )


def _code(index: Any) -> Any:
    return int(index) if isinstance(index, str) and index.isdecimal() else index


def label_order(source: Sequence[str], target: Sequence[str], source_owner: str, target_owner: str) -> list[int]:
    """Return the index in `source` of each target label, so that `source_logits[:, order]` is in the target's order.

    Upper and lower case are equal, because the same label is often spelt both ways (`NEGATIVE`, `negative`).

    Args:
        source, target: label names in the order of the logits.
        source_owner, target_owner: whose labels they are, for the error message, such as `"teacher"`.

    Raises:
        InputError: if the two sets of names differ, or if names differ only in case.

    Example:

    ```python
    >>> from tkd_hf.core.names import label_order
    >>> label_order(["NEGATIVE", "POSITIVE"], ["positive", "negative"], "teacher", "student")
    [1, 0]

    ```
    """
    if len(set(source)) == len(source) and sorted(source) == sorted(target):
        return [list(source).index(name) for name in target]  # names may differ in case alone, as `may` and `May` do
    source_indices = {name.casefold(): index for index, name in enumerate(source)}
    target_names = [name.casefold() for name in target]
    if len(source_indices) != len(source) or sorted(source_indices) != sorted(target_names):
        raise InputError(
            f"the labels of the {source_owner}, {list(source)}, are not those of the {target_owner}, {list(target)}; "
            "correct id2label in the configuration of the model with the wrong names, or name the data's labels with "
            "--label-names"
        )
    return [source_indices[name] for name in target_names]


def split_revision(model: str) -> tuple[str, str | None]:
    """Split `org/model@revision` into the Hub id and the commit, branch or tag.

    Without a revision, and for an existing folder even if its name contains `@`, the revision is `None`.

    Example:

    ```python
    >>> from tkd_hf.core.names import split_revision
    >>> split_revision("org/model@v1.0"), split_revision("org/model")
    (('org/model', 'v1.0'), ('org/model', None))

    ```
    """
    if "@" not in model or Path(model).exists():
        return model, None
    name, _, revision = model.rpartition("@")
    return name, revision


def short_names(models: Sequence[str]) -> list[str]:
    """Shorten paths for a table: keep as many trailing parts of each as make it unique.

    Example:

    ```python
    >>> from tkd_hf.core.names import short_names
    >>> short_names(["runs/sst2/distill", "runs/sst2/distill-2", "runs/mrpc/distill"])
    ['sst2/distill', 'distill-2', 'mrpc/distill']

    ```
    """
    parts = [[part for part in model.split("/") if part] for model in models]

    def shorten(model_parts: list[str]) -> str:
        for count in range(1, len(model_parts)):
            ending = model_parts[-count:]
            if sum(any_parts[-count:] == ending for any_parts in parts) == 1:
                return "/".join(ending)
        return "/".join(model_parts)

    return [shorten(model_parts) for model_parts in parts]
