"""Labels are aligned by name, never by position."""

from collections.abc import Sequence

from transformers import PretrainedConfig

from .errors import InputError


def label_names(config: PretrainedConfig) -> tuple[str, ...]:
    """A model's class names in the order of its logits; empty for regression, whose score has no name."""
    if config.num_labels == 1:
        return ()
    return tuple(config.id2label[code] for code in range(config.num_labels))


def classifier_problem_type(config: PretrainedConfig) -> str:
    """What a classifier of texts answers; where its configuration does not say, one output is a score, several are
    classes.
    """
    return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")


def check_label_codes(config: PretrainedConfig, model: str) -> None:
    """Raises `InputError` where `id2label` and `label2id` give the same names other codes.

    Other names in `label2id` are no contradiction: transformers fills it with LABEL_0, LABEL_1 and so on where a
    configuration has none.
    """
    names, codes = config.id2label or {}, config.label2id or {}
    if set(names.values()) == set(codes) and any(codes[name] != code for code, name in names.items()):
        raise InputError(
            f"id2label={names} and label2id={codes} of {model!r} contradict each other; correct one of them"
        )


def label_order(source: Sequence[str], target: Sequence[str], source_owner: str, target_owner: str) -> list[int]:
    """Where each target label stands in the source: `source_logits[:, order]` are in the target's order.

    Upper and lower case are the same, since one label is often spelt both ways (`NEGATIVE`, `negative`).

    Args:
        source, target: label names in the order of the logits.
        source_owner, target_owner: what to call the two in the message, such as `"teacher"`.

    Raises:
        InputError: unless both are the same set of names; the message prints both.

    Example:

    ```python
    >>> from tkd_hf.labels import label_order
    >>> label_order(["NEGATIVE", "POSITIVE"], ["positive", "negative"], "teacher", "student")
    [1, 0]

    ```
    """
    places = {name.casefold(): place for place, name in enumerate(source)}
    wanted = [name.casefold() for name in target]
    if len(places) != len(source) or sorted(places) != sorted(wanted):
        raise InputError(
            f"the labels of the {source_owner}, {list(source)}, are not those of the {target_owner}, {list(target)}; "
            "set id2label in the configuration of the one that is named wrongly, or name the data's with --label-names"
        )
    return [places[name] for name in wanted]
