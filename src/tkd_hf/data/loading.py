"""Load examples: a task name, a Hub id or local files become splits with the columns `text`, `text_pair` and `label`.

`load_splits` is what training uses, `load_split` what evaluation uses. Both return the `Task` beside the examples, so
that nothing downstream asks where the data came from. A new data set needs no code: whatever has the usual column names
is understood, and `DataArguments` names everything else.
"""

import csv
from collections import Counter
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
from .arguments import DataArguments
from .labels import (
    STRINGS,
    WORD_COLUMNS,
    check_word_lists,
    encode_labels,
    guess_label_column,
    holds_word_lists,
    infer_labels,
)
from .problem_types import ProblemType
from .tasks import Task, get_task


# Tokenizers take some hundred bytes of memory per character, and they do so before they truncate.
MAX_CHARACTERS = 1_000_000
_MAX_HEADER_CHARACTERS = 1 << 20
_COMPRESSION_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
_LOADERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}


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
    task = get_task(data.task) if data.task else _task_of_dataset(data)
    task = replace(
        task,
        label_names=data.label_names or task.label_names,
        train_split=data.train_split or task.train_split,
        eval_split=data.eval_split or task.eval_split,
    )
    rows = read_split(data, task, task.train_split if split == "train" else task.eval_split)
    if data.dataset:
        task = _complete_task(task, rows, data, fallback_label_names)
    return normalise(rows, task), task


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
    if set(task.label_names) < set(teacher_labels):
        # The training split holds only some of the teacher's classes: keep the teacher's codes for them.
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
    name = split.split("[")[0]
    if data.task and data.data_dir:
        return _read_file(_split_file(Path(data.data_dir) / (task.config or task.name), name), name, split)
    path = Path(task.dataset)
    if path.exists() and (data.dataset or not task.config):
        if path.is_dir():
            return _read_file(_split_file(path, name), name, split)
        return _read_file(path, "train", split)
    alternative = "a local copy with --data-dir" if data.task else "a local folder or file"
    with explain_hub_errors(f"data set {task.dataset!r}", alternative):
        return load_dataset(task.dataset, task.config, split=split, download_mode=DownloadMode.REUSE_DATASET_IF_EXISTS)


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


def _split_file(folder: Path, name: str) -> Path:
    """Return the file of a split in a folder: `train.parquet`, `train.csv` and so on."""
    for suffix in _LOADERS:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    data_files = sorted(path.name for path in folder.glob("*") if path.suffix in _LOADERS) if folder.is_dir() else []
    raise InputError(
        f"no split {name!r} in {folder} (found: {', '.join(data_files) or 'no data files'}); "
        "name another split with --train-split or --eval-split"
    )


def _read_file(path: Path, name: str, split: str) -> Dataset:
    if path.suffix not in _LOADERS:
        raise InputError(f"{path} has the ending {path.suffix!r}; the readable ones are {', '.join(_LOADERS)}")
    _check_not_compressed(path)
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    if _LOADERS[path.suffix] == "csv":
        _check_header(path, options.get("sep", ","))
    try:
        rows = load_dataset(_LOADERS[path.suffix], data_files={name: str(path)}, split=split, **options)
    except Exception as error:  # `datasets` wraps whatever error the reader raises
        reason = first_line(error.__cause__ or error)
        raise InputError(f"split {split!r} cannot be read from {path}: {reason}") from error
    if path.suffix == ".txt":  # skip blank lines
        rows = rows.filter(lambda lines: [bool(line.strip()) for line in lines], batched=True, input_columns="text")
    return rows


def _check_not_compressed(path: Path) -> None:
    """Refuse compressed files: `datasets` would decompress an archive of any size, whatever its name."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, compression in _COMPRESSION_MAGIC.items():
        if start.startswith(magic):
            raise InputError(
                f"{path} is compressed ({compression}), although its name ends in {path.suffix}; decompress it first"
            )


def _check_header(path: Path, separator: str) -> None:
    """Refuse two columns with the same name: pandas would silently rename the second."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline(_MAX_HEADER_CHARACTERS)
    if len(header) == _MAX_HEADER_CHARACTERS:
        raise InputError(
            f"the first line of {path} is longer than {_MAX_HEADER_CHARACTERS} characters; give the file a header line "
            "with the column names"
        )
    names = next(csv.reader([header], delimiter=separator), [])
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise InputError(f"{path} has several columns {', '.join(map(repr, repeated))}; give each its own name")


def _complete_task(task: Task, rows: Dataset, data: DataArguments, fallback_label_names: tuple[str, ...]) -> Task:
    """Infer from the rows what `data` does not say: text columns, label names, problem type and metrics."""
    task = replace(task, text_columns=task.text_columns or _guess_text_columns(rows))
    per_word = holds_word_lists(rows, task.text_columns)
    if per_word:
        column = data.label_column or guess_label_column(rows)
        task = replace(task, problem_type=ProblemType.TOKEN_CLASSIFICATION, label_column=column)
    if task.label_column not in rows.column_names:
        if data.label_column:
            raise InputError(f"no label column {data.label_column!r}; the columns are {_quoted_columns(rows)}")
        return replace(task, metrics=task.problem_type.default_metrics(num_labels=0))
    problem_type, declared_names, inferred_names = infer_labels(rows, task.label_column, per_word)
    if problem_type.has_scores:
        fallback_label_names = ()
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
    return encode_labels(rows, task, columns) if "label" in columns else rows


def _check_texts(rows: Dataset, column: str, subject: str) -> None:
    if rows.features[column] not in map(Value, (*STRINGS, "null")):
        raise InputError(f"{subject} holds {rows.features[column]}, not texts")
    texts = rows.unique(column)
    if None in texts:
        raise InputError(f"{subject} has empty texts; fill or drop them")
    longest = max(map(len, texts))
    if longest > MAX_CHARACTERS:
        raise InputError(
            f"{subject} has a text of {longest} characters; cut it to {MAX_CHARACTERS} or fewer (the model reads only "
            "the first max_length tokens)"
        )


def _quoted_columns(rows: Dataset) -> str:
    return ", ".join(map(repr, rows.column_names))
