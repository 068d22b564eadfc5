"""Loading: a task's name, a Hub id or local files become splits with the columns `text`, `text_pair` and `label`."""

import csv
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import ClassLabel, Dataset, DownloadMode, List, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from transformers import PretrainedConfig

from ..errors import InputError, first_line
from ..labels import classifier_problem_type, label_names
from .tasks import Task, get_task
from .word_labels import (
    WORD_COLUMNS,
    check_word_lists,
    encode_word_labels,
    guess_label_column,
    holds_word_lists,
    word_label_names,
)


MAX_CHARACTERS = 1_000_000  # of a text: a tokenizer takes some hundred bytes for each, before it cuts
_STRINGS = ("string", "large_string")
_LONGEST_HEADER = 1 << 20
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
_LOADERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}


@dataclass(frozen=True)
class DataArguments:
    """Where the examples come from: exactly one of `task` and `dataset`.

    Args:
        task: a GLUE task by name.
        dataset: a Hub id, or a local folder or file (parquet, csv, tsv, json, jsonl; txt, one text a line).
        data_dir: a folder with local copies, `<data_dir>/<task>/<split>.parquet`; nothing is fetched from the Hub then.
        config: the configuration of a Hub data set.
        text_columns: one or two columns of text, or one of lists of words; needed with `dataset` unless it has `text`,
            `sentence`, `tokens` or `words`.
        label_column: the column of labels; `None` means `label` where there is one, and beside lists of words
            `ner_tags`, `tags` or `labels`.
        label_names: class names in the order of integer codes, where the data set does not carry them.
        train_split, eval_split: names, or slices such as `train[:90%]`.
        max_length: tokens at which examples are cut.
    """

    task: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    config: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    label_names: tuple[str, ...] = ()
    train_split: str | None = None
    eval_split: str | None = None
    max_length: int = 128

    def __post_init__(self):
        if bool(self.task) == bool(self.dataset):
            raise InputError(
                f"name the data by either --task or --dataset (got task={self.task!r} and dataset={self.dataset!r})"
            )


def load_split(data: DataArguments, split: str, fallback_label_names: tuple[str, ...] = ()) -> tuple[Dataset, Task]:
    """The examples of one split and the task they make.

    Args:
        data: where the examples come from.
        split: `"train"` or `"eval"`: which of the two splits that `data` names.
        fallback_label_names: the label names of a model, or of another split, for a data set that has no names of its
            own: one split need not hold every class.

    Returns:
        the examples with the columns `text`, `text_pair` (pairs only) and `label` (where there are labels: an `int`
        code, a `float` score, or a multi-hot list of `float`), and the task, with what the data said about labels. For
        token classification `text` is a list of words, and `label` one of as many `int` codes.

    Raises:
        InputError: for an unknown task, a missing file, split or column, or a data set that cannot be fetched.
    """
    task = get_task(data.task) if data.task else _unnamed_task(data)
    task = replace(
        task,
        label_names=data.label_names or task.label_names,
        train_split=data.train_split or task.train_split,
        eval_split=data.eval_split or task.eval_split,
    )
    rows = read_split(data, task, task.train_split if split == "train" else task.eval_split)
    if data.dataset:
        task = _complete(task, rows, data, fallback_label_names)
    return normalise(rows, task), task


def load_splits(data: DataArguments, teacher: PretrainedConfig | None = None) -> tuple[Dataset, Dataset, Task]:
    """The examples to train on, those to evaluate on, and the task: label names are those of the training split.

    Args:
        data: where the examples come from.
        teacher: what the labels are where the training split has none: those of the evaluation split if it has any,
            otherwise the teacher's. Without a teacher, both splits must have labels.

    Raises:
        InputError: as `load_split`; if the splits have different labels, or none where they are needed.
    """
    train, task = load_split(data, "train")
    taught = label_names(teacher) if teacher else ()
    if set(task.label_names) < set(taught):  # a class may be absent from what there is to learn from
        train, task = load_split(data, "train", fallback_label_names=taught)
    unlabelled = teacher is not None and "label" not in train.column_names
    known = taught if unlabelled and not task.label_names else task.label_names
    evaluation, other = load_split(data, "eval", fallback_label_names=known)
    if unlabelled:
        return train, evaluation, other if "label" in evaluation.column_names else _labelled_by(teacher, task)
    for name, rows in (("train", train), ("eval", evaluation)):
        if "label" not in rows.column_names:
            raise InputError(f"the {name} split of {task.name} has no column {task.label_column!r} to learn from")
    if other.label_names != task.label_names:
        raise InputError(f"the splits have different labels: {list(task.label_names)} and {list(other.label_names)}")
    return train, evaluation, task


def _labelled_by(teacher: PretrainedConfig, task: Task) -> Task:
    names = task.label_names or label_names(teacher)
    if task.problem_type == "token_classification":
        return replace(task, label_names=names)
    return replace(task, label_names=names, problem_type=classifier_problem_type(teacher))


def _unnamed_task(data: DataArguments) -> Task:
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
    """One split as it is stored; `split` may be a slice."""
    name = split.split("[")[0]
    if data.task and data.data_dir:
        return _read_files(_find(Path(data.data_dir) / (task.config or task.name), name), name, split)
    if data.dataset and Path(data.dataset).exists():
        path = Path(data.dataset)
        return _read_files(_find(path, name) if path.is_dir() else path, name if path.is_dir() else "train", split)
    config = task.config or (task.name if data.task else None)
    instead = "a local copy with --data-dir" if data.task else "a local folder or file"
    with explain_hub_errors(f"data set {task.dataset!r}", instead):
        return load_dataset(task.dataset, config, split=split, download_mode=DownloadMode.REUSE_DATASET_IF_EXISTS)


@contextmanager
def explain_hub_errors(what: str, instead: str):
    """Says in one line what could not be fetched from the Hub, and what to give instead."""
    try:
        yield
    except InputError:
        raise
    except (OfflineModeIsEnabled, ConnectionError, HfHubHTTPError, DatasetNotFoundError, OSError) as error:
        raise InputError(
            f"{what} is neither a local path nor can it be fetched from the Hub ({type(error).__name__}); check the "
            f"name and the network, or give {instead}"
        ) from error
    except ValueError as error:
        raise InputError(f"{what}: {first_line(error)}") from error


def _find(folder: Path, name: str) -> Path:
    """The file of a split in a folder: `train.parquet`, `train.csv` …"""
    for suffix in _LOADERS:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    found = sorted(f.name for f in folder.glob("*") if f.suffix in _LOADERS) if folder.is_dir() else []
    raise InputError(
        f"no split {name!r} in {folder} (found: {', '.join(found) or 'no data files'}); "
        "name another split with --train-split or --eval-split"
    )


def _read_files(path: Path, name: str, split: str) -> Dataset:
    if path.suffix not in _LOADERS:
        raise InputError(f"{path} has the ending {path.suffix!r}; the readable ones are {', '.join(_LOADERS)}")
    _check_not_packed(path)
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    if _LOADERS[path.suffix] == "csv":
        _check_header(path, options.get("sep", ","))
    try:
        rows = load_dataset(_LOADERS[path.suffix], data_files={name: str(path)}, split=split, **options)
    except Exception as error:  # `datasets` wraps whatever the reader raised
        reason = first_line(error.__cause__ or error)
        raise InputError(f"split {split!r} cannot be read from {path}: {reason}") from error
    if path.suffix == ".txt":  # blank lines are no texts
        rows = rows.filter(lambda lines: [bool(line.strip()) for line in lines], batched=True, input_columns="text")
    return rows


def _check_not_packed(path: Path) -> None:
    """`datasets` would unpack an archive of any size, whatever its name."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, kind in _PACKED.items():
        if start.startswith(magic):
            raise InputError(
                f"{path} is packed ({kind}), and not the {path.suffix} that its name says; unpack it first"
            )


def _check_header(path: Path, separator: str) -> None:
    """Of two columns of one name, pandas would rename the second."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline(_LONGEST_HEADER)
    if len(header) == _LONGEST_HEADER:
        raise InputError(f"the first line of {path} is longer than {_LONGEST_HEADER} characters, and no header")
    names = next(csv.reader([header], delimiter=separator), [])
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{path} has several columns {', '.join(map(repr, twice))}; give each a name of its own")


def _complete(task: Task, rows: Dataset, data: DataArguments, fallback_label_names: tuple[str, ...]) -> Task:
    """Fills in what a data set without a name says about itself: text columns, label names, problem type, metrics."""
    task = replace(task, text_columns=task.text_columns or _guess_text_columns(rows))
    if holds_word_lists(rows, task.text_columns):
        column = data.label_column or guess_label_column(rows)
        task = replace(
            task, problem_type="token_classification", label_column=column, metrics=("entity_f1", "accuracy")
        )
    if task.label_column not in rows.column_names:
        if data.label_column:
            raise InputError(f"no label column {data.label_column!r}; the columns are {_names(rows)}")
        return replace(task, metrics=task.metrics or ("accuracy", "f1_macro"))
    if task.problem_type == "token_classification":
        own_names, found = word_label_names(rows, task.label_column)
        return replace(task, label_names=task.label_names or own_names or fallback_label_names or found)
    problem_type, own_names, found = _label_type(rows, task.label_column)
    names = task.label_names or own_names or (fallback_label_names if problem_type != "regression" else ()) or found
    metrics = {
        "single_label_classification": ("accuracy", "f1") if len(names) == 2 else ("accuracy", "f1_macro"),
        "multi_label_classification": ("f1_micro", "f1_macro"),
        "regression": ("pearson", "spearman"),
    }[problem_type]
    return replace(task, label_names=names, problem_type=problem_type, metrics=metrics)


def _guess_text_columns(rows: Dataset) -> tuple[str, ...]:
    for name in ("text", "sentence", *WORD_COLUMNS):
        if name in rows.column_names:
            return (name,)
    raise InputError(f"which columns hold the text? name one or two with --text-column; there are {_names(rows)}")


def _label_type(rows: Dataset, column: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Problem type, the names that the data set itself carries, and names made up from the values it holds."""
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return "single_label_classification", tuple(feature.names), ()
    if isinstance(feature, List):
        return "multi_label_classification", *_multi_label_names(rows, column)
    if not isinstance(feature, Value):
        raise InputError(f"label column {column!r} holds {feature}, neither classes nor numbers nor lists of classes")
    if feature.dtype.startswith("float"):
        return "regression", (), ()
    values = rows.unique(column)
    if None in values:
        raise InputError(f"label column {column!r} has empty entries; fill or drop them")
    if feature.dtype in _STRINGS:
        return "single_label_classification", (), tuple(sorted(values))
    return "single_label_classification", (), tuple(f"LABEL_{i}" for i in range(max(values) + 1))


def _multi_label_names(rows: Dataset, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """As `_label_type`, for a column of lists: of class codes with names, of names, or multi-hot."""
    feature = rows.features[column].feature
    if isinstance(feature, ClassLabel):
        return tuple(feature.names), ()
    values = {value for row in rows[column] for value in row}
    if all(isinstance(value, str) for value in values):
        return (), tuple(sorted(values))
    width = len(rows[0][column])
    if values <= {0, 1} and all(len(row) == width for row in rows[column]):
        return (), tuple(f"LABEL_{i}" for i in range(width))
    raise InputError(f"label column {column!r} holds lists that are neither of class names nor multi-hot (0 and 1)")


def normalise(rows: Dataset, task: Task) -> Dataset:
    """Only `text`, `text_pair` and `label`, with labels as the loss wants them.

    Raises:
        InputError: for missing columns, no rows, texts that are none, or labels without a name.
    """
    missing = [column for column in task.text_columns if column not in rows.column_names]
    if missing:
        raise InputError(f"missing column {', '.join(map(repr, missing))} for {task.name}; there are {_names(rows)}")
    if len(rows) == 0:
        raise InputError(f"the data of {task.name} has no examples")
    columns = dict(zip(("text", "text_pair"), task.text_columns, strict=False))
    if task.label_column in rows.column_names:
        columns["label"] = task.label_column
    rows = rows.select_columns(list(columns.values())).rename_columns({old: new for new, old in columns.items()})
    if task.problem_type == "token_classification":
        check_word_lists(rows["text"], columns["text"], task.name)
        return encode_word_labels(rows, task.label_names, columns, task.name) if "label" in columns else rows
    for column in ("text", "text_pair"):
        if column not in rows.column_names:
            continue
        if rows.features[column] not in map(Value, (*_STRINGS, "null")):
            raise InputError(f"column {columns[column]!r} of {task.name} holds {rows.features[column]}, not texts")
        texts = rows.unique(column)
        if None in texts:
            raise InputError(f"column {columns[column]!r} of {task.name} has empty texts; fill or drop them")
        longest = max(map(len, texts))
        if longest > MAX_CHARACTERS:
            raise InputError(
                f"column {columns[column]!r} of {task.name} has a text of {longest} characters; cut it to "
                f"{MAX_CHARACTERS} or fewer, of which the first max_length tokens are read"
            )
    return _encode_labels(rows, task) if "label" in columns else rows


def _encode_labels(rows: Dataset, task: Task) -> Dataset:
    if task.problem_type == "regression":
        return rows.cast_column("label", Value("float32"))
    codes = {name: code for code, name in enumerate(task.label_names)}
    labels = rows["label"]
    if task.problem_type == "multi_label_classification":
        named = isinstance(rows.features["label"].feature, ClassLabel)
        encoded = [_multi_hot(label, codes, named) for label in labels]
        return rows.remove_columns("label").add_column("label", encoded, feature=List(Value("float32")))
    if rows.features["label"].dtype in _STRINGS:
        unknown = sorted(set(labels) - set(codes))
        if unknown:
            raise InputError(f"labels {unknown} are not among the label names {list(codes)}")
        encoded = [codes[label] for label in labels]
    else:
        encoded = list(labels)
        if set(encoded) == {-1}:  # the Hub's convention for hidden labels, as in GLUE's test splits
            return rows.remove_columns("label")
        outside = sorted({label for label in encoded if not 0 <= label < len(codes)})
        if outside:
            raise InputError(f"label codes {outside} have no name among the {len(codes)}: {list(codes)}")
    return rows.remove_columns("label").add_column("label", encoded, feature=Value("int64"))


def _multi_hot(label: list, codes: dict[str, int], coded: bool) -> list[float]:
    if all(isinstance(name, str) for name in label):
        unknown = sorted(set(label) - set(codes))
        if unknown:
            raise InputError(f"labels {unknown} are not among the label names {list(codes)}")
        active = {codes[name] for name in label}
    elif coded:
        active = set(label)
    else:
        return [float(value) for value in label]
    return [float(code in active) for code in range(len(codes))]


def _names(rows: Dataset) -> str:
    return ", ".join(map(repr, rows.column_names))
