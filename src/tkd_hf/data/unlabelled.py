"""Examples without labels: read, cleared of what is known already, and joined to those to train on.

The student learns from the teacher's answers to them alone.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, Features, Value, concatenate_datasets

from ..errors import InputError
from .loading import DataArguments, normalise, read_split
from .tasks import GLUE_TASKS, Task


logger = logging.getLogger(__name__)


def read_unlabelled(sources: list[str], task: Task, data_dir: str | None = None) -> Dataset:
    """Reads texts for a task; labels that stand beside them are ignored.

    Args:
        sources: local files (parquet, csv, tsv, json, jsonl, or txt with one text a line), folders, Hub ids, or GLUE
            tasks by name, each perhaps with a split: `org/name:validation`. The split is `train` where none is named.
        task: says how many texts an example has. They are in its own columns, or in `text` and `text_pair`.
        data_dir: where local copies of tasks are, as in `DataArguments`.

    Returns:
        the rows of all sources with the columns `text` and, for pairs, `text_pair`.

    Raises:
        InputError: for a source that cannot be read, holds nothing, or lacks a column, and for token classification.
    """
    if task.problem_type == "token_classification":
        raise InputError(
            f"{', '.join(sources)} cannot join {task.name}: beside tagged words, tokens without a label do not count. "
            "Distil lists of words without tags by themselves, with --dataset"
        )
    return concatenate_datasets([_read(source, task, data_dir) for source in sources])


def drop_duplicates(extra: Dataset, train: Dataset, evaluation: Dataset) -> Dataset:
    """Leaves out what is in the training or the evaluation data already, and repetitions, and logs how many.

    Texts are the same if they differ in case and spaces alone.

    Args:
        extra: examples without labels.
        train, evaluation: the splits of the task; a text to evaluate on must never be trained on.

    Raises:
        InputError: if nothing is left.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.unlabelled import drop_duplicates
    >>> splits = [Dataset.from_dict({"text": [text]}) for text in ("Good film .", "dull")]
    >>> drop_duplicates(Dataset.from_dict({"text": ["good film . ", "fine", "Dull", "fine"]}), *splits)["text"][:]
    ['fine']

    ```
    """
    known = dict.fromkeys(text_keys(train), "training data") | dict.fromkeys(text_keys(evaluation), "evaluation data")
    kept, dropped = [], Counter()
    for place, key in enumerate(text_keys(extra)):
        if key in known:
            dropped[known[key]] += 1
        else:
            known[key] = "unlabelled data"
            kept.append(place)
    left_out = ", ".join(f"{count} that the {where} hold already" for where, count in dropped.items())
    if not kept:
        raise InputError(f"none of the {len(extra)} unlabelled examples is new: left out {left_out}")
    logger.info("%d unlabelled examples%s", len(kept), f"; left out {left_out}" if left_out else "")
    return extra.select(kept)


def append_unlabelled(train: Dataset, extra: Dataset) -> Dataset:
    """Training examples and, after them, those without labels.

    Args:
        train: rows with `text`, perhaps `text_pair` and `label`.
        extra: rows with the same texts. Where the others have labels, theirs is the one that the hard loss leaves out:
            -100 for a class, NaN for a score or for each of several labels.

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
        extra = extra.add_column("label", [_no_label(train[0]["label"])] * len(extra), feature=train.features["label"])
    return concatenate_datasets([train, extra.cast(train.features)])


def text_keys(rows: Dataset) -> Iterator[tuple[str, ...]]:
    """`text_key` of each row."""
    columns = [rows[name] for name in ("text", "text_pair") if name in rows.column_names]
    return map(text_key, zip(*columns, strict=True))


def text_key(texts: tuple[str, ...]) -> tuple[str, ...]:
    """What tells examples apart: their one or two texts, whatever the case and the spaces."""
    return tuple(" ".join(text.casefold().split()) for text in texts)


def _no_label(like: int | float | list[float]) -> int | float | list[float]:
    if isinstance(like, list):
        return [math.nan] * len(like)
    return math.nan if isinstance(like, float) else -100


def _read(source: str, task: Task, data_dir: str | None) -> Dataset:
    name, _, split = (source, "", "") if Path(source).exists() else source.partition(":")
    count, split = len(task.text_columns), split or "train"
    choices = [task.text_columns, ("text", "text_pair")[:count]]
    if name in GLUE_TASKS and not Path(name).exists():
        other = GLUE_TASKS[name]
        rows = read_split(DataArguments(task=name, data_dir=data_dir), other, split)
        choices = [other.text_columns] if len(other.text_columns) == count else choices
    else:
        rows = read_split(DataArguments(dataset=name), replace(task, dataset=name, config=None), split)
    columns = next((names for names in choices if set(names) <= set(rows.column_names)), None)
    if columns is None:
        wanted = " or ".join(dict.fromkeys(" and ".join(map(repr, names)) for names in choices))
        raise InputError(
            f"{source} has the columns {', '.join(map(repr, rows.column_names))}; {task.name} needs {wanted}"
        )
    rows = normalise(rows, replace(task, name=source, text_columns=columns, label_column=""))
    return rows.cast(Features(dict.fromkeys(rows.column_names, Value("string"))))
