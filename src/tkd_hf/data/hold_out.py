"""Hold examples out of the training split, for data without a split to evaluate on."""

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
from datasets import Dataset


# The same in every command and for every seed of training: what one command trains on, no other evaluates on.
SEED = 42
SHARE, _MIN_EXAMPLES, _MAX_SHARE = 0.1, 20, 1 / 3


def hold_out(rows: Dataset, text_columns: tuple[str, ...], label_column: str) -> tuple[list[int], list[int]]:
    """Choose the rows to train on, and those to evaluate on.

    A tenth of the rows is held out, or 20 if that is more, but never more than a third. Each class, or each range of
    scores, gives its share (stratified). Rows with the same text stay together, since training on a text of the
    evaluation split makes its results too good. The only row of a class is not held out.

    Args:
        rows: the data as it is stored; the same rows always give the same split.
        text_columns: the columns of texts.
        label_column: the column of labels, which may be missing.

    Returns:
        Two lists of indices in ascending order. The second one is empty if there are fewer than three different texts.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.hold_out import hold_out
    >>> rows = Dataset.from_dict({"text": [f"text {i}" for i in range(300)], "label": ["a"] * 200 + ["b"] * 100})
    >>> train, evaluation = hold_out(rows, ("text",), "label")
    >>> len(train), sum(index < 200 for index in evaluation), sum(index >= 200 for index in evaluation)
    (270, 20, 10)

    ```
    """
    groups: dict[Any, list[int]] = {}
    for index, texts in enumerate(zip(*(rows[column] for column in text_columns), strict=True)):
        groups.setdefault(tuple(map(_text_key, texts)), []).append(index)
    labels = rows[label_column][:] if label_column in rows.column_names else [None] * len(rows)
    members = list(groups.values())
    strata = [_stratum(labels[group[0]]) for group in members]
    sizes: dict[Hashable, int] = {}
    for stratum in strata:
        sizes[stratum] = sizes.get(stratum, 0) + 1
    has_classes = len(sizes) <= len(members) / 2
    shuffled = np.random.default_rng(SEED).permutation(len(members)).tolist()
    candidates = [index for index in shuffled if not has_classes or sizes[strata[index]] > 1]
    candidates.sort(key=lambda index: strata[index])  # stable: shuffled within each class
    target = max(round(SHARE * len(members)), min(_MIN_EXAMPLES, math.floor(_MAX_SHARE * len(members))))
    if not 0 < target < len(candidates):
        return list(range(len(rows))), []
    step = len(candidates) / target
    chosen = {candidates[int((i + 0.5) * step)] for i in range(target)}
    evaluation = sorted(index for group in chosen for index in members[group])
    held_out = set(evaluation)
    return [index for index in range(len(rows)) if index not in held_out], evaluation


def _text_key(text: Any) -> Any:
    words = text if isinstance(text, list) else str(text).split()
    return " ".join(map(str, words)).casefold()


def _stratum(label: Any) -> tuple[str, Any]:
    """Return a label as a value that sorts beside every other: numbers by size, the rest by name."""
    if isinstance(label, (int, float)) and not math.isnan(label):
        return "number", float(label)
    return "text", str(label)
