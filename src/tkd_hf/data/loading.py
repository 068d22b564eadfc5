"""Load examples: a task name, a Hub id or local files become splits with the columns `text`, `text_pair` and `label`.

`load_splits` is what training uses, `load_split` what evaluation uses. Both return the `Task` beside the examples, so
that nothing downstream asks where the data came from. A new data set needs no code: whatever has the usual column names
is understood, and `DataArguments` names everything else.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, DownloadMode, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from transformers import PretrainedConfig

from ..core.errors import InputError, first_line
from ..core.names import label_names
from ..core.processes import log_once
from .arguments import DataArguments
from .columns import STRINGS, check_no_gaps, plain_columns
from .files import check_misspelt_path, data_files, read_file, split_file
from .hold_out import SEED, hold_out
from .labels import (
    LABEL_COLUMNS,
    WORD_COLUMNS,
    check_word_lists,
    code_indices,
    encode_labels,
    guess_label_column,
    holds_word_lists,
    infer_labels,
)
from .problem_types import ProblemType
from .tasks import Task, get_task


logger = logging.getLogger(__name__)

# Tokenizers take some hundred bytes of memory per character, and they do so before they truncate.
MAX_CHARACTERS = 1_000_000


def load_split(data: DataArguments, split: str, fallback_label_names: tuple[str, ...] = ()) -> tuple[Dataset, Task]:
    """Load the examples of one split, and describe their task.

    Args:
        data: where the examples come from.
        split: `"train"` or `"eval"`: which of the two splits of `data` to load.
        fallback_label_names: label names of a model, or of another split, for data that does not name its labels. They
            keep the codes right if the split does not hold every class.

    Returns:
        The examples and their task. The examples have the columns `text`, `text_pair` (pairs only) and `label` (if
        there are labels): an `int` code, a `float` score, or a multi-hot list of `float`. For token classification,
        `text` is a list of words and `label` a list with one `int` code per word.

    Raises:
        InputError: for an unknown task, a missing file, split or column, or a data set that cannot be fetched.
    """
    _check_columns(data)
    task = get_task(data.task) if data.task else _task_of_dataset(data)
    task = replace(
        task,
        label_names=data.label_names or task.label_names,
        train_split=data.train_split or task.train_split,
        eval_split=data.eval_split or task.eval_split,
    )
    if data.eval_split is None and _lacks_eval_split(data, task):
        return _load_held_out(data, task, split, fallback_label_names)
    rows = _read_plain(data, task, task.train_split if split == "train" else task.eval_split)
    task = _complete_task(task, rows, data, fallback_label_names)
    return normalise(rows, task), task


def _check_columns(data: DataArguments) -> None:
    """Refuse columns that cannot all be meant, before anything is read."""
    texts, shown = data.text_columns, ", ".join(map(repr, data.text_columns))
    if len(texts) > 2:
        raise InputError(f"an example has one or two texts, but {len(texts)} text columns are named: {shown}")
    if len(set(texts)) < len(texts):
        raise InputError(f"the text column is named twice: {shown}; name two different columns for pairs")
    if data.label_column in texts:
        raise InputError(f"{data.label_column!r} is named as the label column and among the text columns {shown}")


def _read_plain(data: DataArguments, task: Task, split: str) -> Dataset:
    """Read a split, with plain types in the columns that may hold texts or labels."""
    texts = task.text_columns or ("text", "sentence", *WORD_COLUMNS)
    labels = (data.label_column,) if data.label_column else (task.label_column, *LABEL_COLUMNS)
    return plain_columns(read_split(data, task, split), dict.fromkeys((*texts, *labels)))


def _load_held_out(
    data: DataArguments, task: Task, split: str, fallback_label_names: tuple[str, ...]
) -> tuple[Dataset, Task]:
    """Load one of two parts of the training split; the task says how the part for evaluation was chosen."""
    rows = _read_plain(data, task, task.train_split)
    task = _complete_task(task, rows, data, fallback_label_names)
    examples = normalise(rows, task)
    train, evaluation = hold_out(rows, task.text_columns, task.label_column)
    if not evaluation:
        if split == "train":
            return examples, task
        raise InputError(
            f"{task.dataset} has no split to evaluate on, and too few different texts to hold some out; name a split "
            "with --eval-split"
        )
    origin = f"held out of {task.train_split} ({len(evaluation)} of {len(rows)} examples, stratified, seed {SEED})"
    log_once(logger, f"{task.dataset} has no split to evaluate on: it is {origin}; name another with --eval-split")
    return examples.select(train if split == "train" else evaluation), replace(task, eval_split=origin)


def _lacks_eval_split(data: DataArguments, task: Task) -> bool:
    """Return whether local data is one file: named itself, or the only one in its folder."""
    path = _local_source(data, task)
    if path is None or data.data_dir:
        return False
    if path.is_file():
        return True
    return {Path(name).stem for name in data_files(path)} == {task.train_split.split("[")[0]}


def load_splits(data: DataArguments, teacher: PretrainedConfig | None = None) -> tuple[Dataset, Dataset, Task]:
    """Load the training examples, the evaluation examples and their task.

    The training split decides the label names, and the evaluation split is encoded with them. If the training split has
    no labels, a teacher can stand in: the label names are then those of the evaluation split, or else the teacher's.

    Args:
        data: where the examples come from.
        teacher: the configuration of the teacher. Without one, both splits must have labels.

    Returns:
        The training examples, the evaluation examples (columns as in `load_split`) and the task.

    Raises:
        InputError: as in `load_split`; if the two splits have different labels; or if a split that needs labels has
            none.

    Example (`reviews`: a folder with `train.csv` and `test.csv`; `teacher`: a classifier):

        data = DataArguments(dataset="reviews", text_columns=("title", "body"), eval_split="test")
        train, evaluation, task = load_splits(data, teacher.config)
        features = tokenize(train, tokenizer, data.max_length)
    """
    train, task = load_split(data, "train")
    teacher_labels = label_names(teacher) if teacher else ()
    if set(task.label_names) < set(teacher_labels) or _are_numbers(task.label_names, teacher_labels):
        # The training split holds only some of the teacher's classes, or holds codes where the teacher's classes are
        # called by numbers: keep the teacher's names and codes for them.
        train, task = load_split(data, "train", fallback_label_names=teacher_labels)
    # Without labels in the training split, the student learns from the teacher alone.
    sole_teacher = None if "label" in train.column_names else teacher
    fallback = teacher_labels if sole_teacher is not None and not task.label_names else task.label_names
    evaluation, eval_task = load_split(data, "eval", fallback_label_names=fallback)
    if sole_teacher is not None:
        if "label" in evaluation.column_names:
            return train, evaluation, eval_task
        return train, evaluation, _with_labels_of(sole_teacher, task)
    for name, rows in (("train", train), ("eval", evaluation)):
        if "label" not in rows.column_names:
            raise InputError(f"the {name} split of {task.name} has no column {task.label_column!r} to learn from")
    if eval_task.label_names != task.label_names:
        raise InputError(
            f"the splits have different labels: {list(task.label_names)} and {list(eval_task.label_names)}"
        )
    return train, evaluation, task


def _are_numbers(names: tuple[str, ...], teacher_names: tuple[str, ...]) -> bool:
    """Return whether the data calls its classes by other forms of the numbers that the teacher calls them by."""
    numbers = code_indices(teacher_names).keys() if teacher_names else set()
    return (
        all(re.fullmatch("(LABEL_)?-?[0-9]+", name) for name in (*names, *teacher_names))
        and set(names) != set(teacher_names)
        and bool(names)
        and code_indices(names).keys() <= numbers
    )


def _with_labels_of(teacher: PretrainedConfig, task: Task) -> Task:
    names = task.label_names or label_names(teacher)
    if task.problem_type.per_token:
        return replace(task, label_names=names)
    return replace(task, label_names=names, problem_type=ProblemType.of_classifier(teacher))


def _task_of_dataset(data: DataArguments) -> Task:
    assert data.dataset is not None  # `DataArguments` has a data set if it has no task
    return Task(
        name=Path(data.dataset).name,
        text_columns=data.text_columns,
        metrics=(),
        label_names=data.label_names,
        label_column=data.label_column or "label",
        dataset=data.dataset,
        config=data.config,
    )


def read_split(data: DataArguments, task: Task, split: str) -> Dataset:
    """Read one split with its columns as they are stored; `split` may be a slice such as `train[:90%]`."""
    path, name = _local_source(data, task), split.split("[")[0]
    if path is not None:
        if path.is_file():
            return read_file(path, "train", split)
        return read_file(split_file(path, name), name, split)
    check_misspelt_path(task.dataset)
    alternative = "a local copy with --data-dir" if data.task else "a local folder or file"
    with explain_hub_errors(f"data set {task.dataset!r}", alternative):
        return load_dataset(task.dataset, task.config, split=split, download_mode=DownloadMode.REUSE_DATASET_IF_EXISTS)


def _local_source(data: DataArguments, task: Task) -> Path | None:
    """Return the local file or folder of the data; `None` if it comes from the Hub."""
    if data.task and data.data_dir:
        return Path(data.data_dir) / (task.config or task.name)
    path = Path(task.dataset).expanduser()
    return path if path.exists() and (data.dataset or not task.config) else None


@contextmanager
def explain_hub_errors(subject: str, alternative: str) -> Iterator[None]:
    """Turn errors of a download from the Hub into an `InputError` of one line.

    Args:
        subject: the data to fetch, such as `"data set 'org/name'"`.
        alternative: a source that needs no network, such as `"a local folder or file"`.
    """
    try:
        yield
    except InputError:
        raise
    except (OfflineModeIsEnabled, ConnectionError, HfHubHTTPError, DatasetNotFoundError, OSError) as error:
        raise InputError(
            f"{subject} is neither a local path nor can it be fetched from the Hub ({type(error).__name__}); check the "
            f"name and the network, or give {alternative}"
        ) from error
    except ValueError as error:
        raise InputError(f"{subject}: {first_line(error)}") from error


def _complete_task(task: Task, rows: Dataset, data: DataArguments, fallback_label_names: tuple[str, ...]) -> Task:
    """Infer from the rows what `data` does not say: text columns, label names, problem type and metrics."""
    if not data.dataset:
        return task
    task = replace(task, text_columns=task.text_columns or _guess_text_columns(rows))
    per_word = holds_word_lists(rows, task.text_columns)
    if per_word:
        column = data.label_column or guess_label_column(rows)
        task = replace(task, problem_type=ProblemType.TOKEN_CLASSIFICATION, label_column=column)
    if task.label_column not in rows.column_names:
        if data.label_column:
            raise InputError(f"no label column {data.label_column!r}; the columns are {_quoted_columns(rows)}")
        return replace(task, metrics=task.problem_type.default_metrics(num_labels=0))
    is_named = bool(task.label_names or fallback_label_names)
    problem_type, declared_names, inferred_names = infer_labels(rows, task.label_column, per_word, is_named)
    if problem_type.has_scores:
        fallback_label_names = ()
        if data.label_names:
            raise InputError(
                f"label column {task.label_column!r} holds scores (numbers with decimals), but the label names "
                f"{list(data.label_names)} are given; write codes or names instead, or leave out --label-names"
            )
    names = task.label_names or declared_names or fallback_label_names or inferred_names
    metrics = problem_type.default_metrics(len(names))
    return replace(task, label_names=names, problem_type=problem_type, metrics=metrics)


def _guess_text_columns(rows: Dataset) -> tuple[str, ...]:
    for name in ("text", "sentence", *WORD_COLUMNS):
        if name in rows.column_names:
            return (name,)
    raise InputError(
        f"which columns hold the text? name one or two with --text-column; there are {_quoted_columns(rows)}"
    )


def normalise(rows: Dataset, task: Task) -> Dataset:
    """Keep only the columns `text`, `text_pair` and `label`, and encode the labels as the loss takes them.

    Raises:
        InputError: for missing columns, no rows, empty or overlong texts, columns of another type, or labels without a
            name.
    """
    missing = [column for column in task.text_columns if column not in rows.column_names]
    if missing:
        raise InputError(
            f"missing column {', '.join(map(repr, missing))} for {task.name}; there are {_quoted_columns(rows)}"
        )
    if len(rows) == 0:
        raise InputError(f"the data of {task.name} has no examples")
    if len(task.text_columns) > 2:
        raise InputError(f"an example has one or two texts, but {task.name} names the columns {task.text_columns}")
    rows = plain_columns(rows, task.text_columns)
    columns = dict(zip(("text", "text_pair"), task.text_columns, strict=False))
    if task.label_column in rows.column_names:
        columns["label"] = task.label_column
    rows = rows.select_columns(list(columns.values())).rename_columns({old: new for new, old in columns.items()})
    if task.problem_type.per_token:
        check_word_lists(rows["text"], columns["text"], task.name)
    else:
        for column in ("text", "text_pair"):
            if column in rows.column_names:
                _check_texts(rows, column, f"column {columns[column]!r} of {task.name}")
    if "label" not in columns:
        return rows
    check_no_gaps(rows, "label", f"label column {columns['label']!r} of {task.name}", "empty entries")
    return encode_labels(rows, task, columns)


def _check_texts(rows: Dataset, column: str, subject: str) -> None:
    if rows.features[column] not in map(Value, (*STRINGS, "null")):
        raise InputError(f"{subject} holds {rows.features[column]}, not texts")
    check_no_gaps(rows, column, subject, "empty texts")
    longest = max(map(len, rows.unique(column)))
    if longest > MAX_CHARACTERS:
        raise InputError(
            f"{subject} has a text of {longest} characters; cut it to {MAX_CHARACTERS} or fewer (the model reads only "
            "the first max_length tokens)"
        )


def _quoted_columns(rows: Dataset) -> str:
    return ", ".join(map(repr, rows.column_names))
