"""Read texts without labels, drop those that the task already has, and append the others to the training examples.

The student learns from the teacher's soft labels on these texts; the hard loss ignores them.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, Features, Value, concatenate_datasets

from ..core.errors import InputError
from .arguments import DataArguments
from .loading import normalise, read_split
from .tasks import TASKS, Task


logger = logging.getLogger(__name__)


def read_unlabelled(sources: Sequence[str], task: Task, data_dir: str | None = None) -> Dataset:
    """Read more texts for a task; if a source has labels, they are ignored.

    Args:
        sources: local files (parquet, csv, tsv, json, jsonl, or txt with one text per line), folders, Hub ids or names
            of GLUE tasks. Each may name a split, as in `org/name:validation`; the default is `train`.
        task: single texts or pairs. A source holds them in the columns of the task, or in `text` and `text_pair`.
        data_dir: the folder with local copies of the GLUE tasks, as in `DataArguments`.

    Returns:
        The rows of all sources with the columns `text` and, for pairs, `text_pair`.

    Raises:
        InputError: for a source that cannot be read, is empty, or lacks a column, and for token classification.
    """
    if task.problem_type.per_token:
        raise InputError(
            f"{', '.join(sources)} cannot be added to {task.name}: beside labelled words, words without a label are "
            "ignored. Distil lists of words without labels separately, with --dataset"
        )
    return concatenate_datasets([_read(source, task, data_dir) for source in sources])


def drop_duplicates(extra: Dataset, train: Dataset, evaluation: Dataset) -> Dataset:
    """Drop examples that are in the training or the evaluation data, and repetitions, and log how many.

    Texts count as equal if they differ only in case and whitespace. Training on texts of the evaluation split would
    make its results too good.

    Args:
        extra: examples without labels.
        train, evaluation: the splits of the task.

    Raises:
        InputError: if no example is left.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.unlabelled import drop_duplicates
    >>> splits = [Dataset.from_dict({"text": [text]}) for text in ("Good film .", "dull")]
    >>> drop_duplicates(Dataset.from_dict({"text": ["good film . ", "fine", "Dull", "fine"]}), *splits)["text"][:]
    ['fine']

    ```
    """
    source_of = dict.fromkeys(text_keys(train), "training data")
    source_of |= dict.fromkeys(text_keys(evaluation), "evaluation data")
    new_indices: list[int] = []
    dropped: Counter[str] = Counter()
    for index, key in enumerate(text_keys(extra)):
        if key in source_of:
            dropped[source_of[key]] += 1
        else:
            source_of[key] = "unlabelled data"
            new_indices.append(index)
    left_out = ", ".join(f"{count} already in the {source}" for source, count in dropped.items())
    if not new_indices:
        raise InputError(f"none of the {len(extra)} unlabelled examples is new: left out {left_out}")
    logger.info("%d unlabelled examples%s", len(new_indices), f"; left out {left_out}" if left_out else "")
    return extra.select(new_indices)


def append_unlabelled(train: Dataset, extra: Dataset) -> Dataset:
    """Append examples without labels to the training examples.

    Args:
        train: rows with `text`, and optionally `text_pair` and `label`.
        extra: rows with the same text columns. If the training examples have labels, these rows get the label that the
            hard loss ignores: -100 for a class, NaN for a score or for each of several labels.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.unlabelled import append_unlabelled
    >>> train = Dataset.from_dict({"text": ["good"], "label": [1]})
    >>> append_unlabelled(train, Dataset.from_dict({"text": ["fine"]}))["label"][:]
    [1, -100]

    ```
    """
    if "label" in train.column_names:
        missing_label = _missing_label(train[0]["label"])
        extra = extra.add_column("label", [missing_label] * len(extra), feature=train.features["label"])
    return concatenate_datasets([train, extra.cast(train.features)])


def text_keys(rows: Dataset) -> Iterator[tuple[str, ...]]:
    """Return the `text_key` of each row."""
    columns = [rows[name] for name in ("text", "text_pair") if name in rows.column_names]
    return map(text_key, zip(*columns, strict=True))


def text_key(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return a key for one or two texts that is the same for any case and whitespace."""
    return tuple(" ".join(text.casefold().split()) for text in texts)


def _missing_label(example_label: int | float | list[float]) -> int | float | list[float]:
    """Return the label that the hard loss ignores, in the form of a label of the same data."""
    if isinstance(example_label, list):
        return [math.nan] * len(example_label)
    return math.nan if isinstance(example_label, float) else -100


def _read(source: str, task: Task, data_dir: str | None) -> Dataset:
    name, _, split = (source, "", "") if Path(source).exists() else source.partition(":")
    split = split or "train"
    texts_per_example = len(task.text_columns)
    choices = [task.text_columns, ("text", "text_pair")[:texts_per_example]]
    if name in TASKS and not Path(name).exists():
        source_task = TASKS[name]
        rows = read_split(DataArguments(task=name, data_dir=data_dir), source_task, split)
        if len(source_task.text_columns) == texts_per_example:
            choices = [source_task.text_columns]
    else:
        rows = read_split(DataArguments(dataset=name), replace(task, dataset=name, config=None), split)
    columns = next((names for names in choices if set(names) <= set(rows.column_names)), None)
    if columns is None:
        expected = " or ".join(dict.fromkeys(" and ".join(map(repr, names)) for names in choices))
        raise InputError(
            f"{source} has the columns {', '.join(map(repr, rows.column_names))}; {task.name} needs {expected}"
        )
    rows = normalise(rows, replace(task, name=source, text_columns=columns, label_column=""))
    return rows.cast(Features(dict.fromkeys(rows.column_names, Value("string"))))
