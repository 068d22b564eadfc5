"""Labels: which problem a column of labels poses, what the labels are called, and how they become codes.

A data set for token classification has a column of lists of words and a column of lists with as many labels. The Hub
calls the latter `ner_tags`, `tags` or `labels`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, LargeList, List, Value

from ..core.errors import InputError
from .problem_types import ProblemType
from .tasks import Task


# The label of words and tokens that neither losses nor metrics consider; transformers and torch use the same value.
IGNORED_LABEL = -100
WORD_COLUMNS = ("tokens", "words")
_LABEL_COLUMNS = ("ner_tags", "tags", "labels", "label")
_LISTS = (List, LargeList)
STRINGS = ("string", "large_string")


def holds_word_lists(rows: Dataset, columns: Sequence[str]) -> bool:
    """Return whether the texts are lists of words.

    Raises:
        InputError: for lists of anything but strings, or lists of words in two columns.
    """
    lists = [column for column in columns if isinstance(rows.features.get(column), _LISTS)]
    for column in lists:
        if getattr(rows.features[column].feature, "dtype", None) not in STRINGS:
            raise InputError(f"column {column!r} holds {rows.features[column]}, neither texts nor lists of words")
    if lists and len(columns) > 1:
        raise InputError(
            f"lists of words in {', '.join(map(repr, lists))} cannot form pairs; name only one --text-column"
        )
    return bool(lists)


def guess_label_column(rows: Dataset) -> str:
    """Return the first column with a usual name for labels per word, or `"label"` if no column has one."""
    return next((name for name in _LABEL_COLUMNS if name in rows.column_names), "label")


def infer_labels(rows: Dataset, column: str, per_word: bool) -> tuple[ProblemType, tuple[str, ...], tuple[str, ...]]:
    """Infer from a column of labels which problem it poses and what the labels are called.

    Args:
        rows: the data as it is stored.
        column: the column of labels.
        per_word: whether the texts are lists of words, so that each word has a label.

    Returns:
        The problem type, the label names that the data set declares, and names inferred from the values.

    Raises:
        InputError: if the column holds nothing that can be a label, or has empty entries.
    """
    if per_word:
        return ProblemType.TOKEN_CLASSIFICATION, *_word_label_names(rows, column)
    feature = rows.features[column]
    if isinstance(feature, List):
        return ProblemType.MULTI_LABEL, *_multi_label_names(rows, column)
    if isinstance(feature, ClassLabel):
        return ProblemType.SINGLE_LABEL, tuple(feature.names), ()
    if not isinstance(feature, Value):
        raise InputError(f"label column {column!r} holds {feature}, neither classes nor numbers nor lists of classes")
    if feature.dtype.startswith("float"):
        return ProblemType.REGRESSION, (), ()
    values = rows.unique(column)
    if None in values:
        raise InputError(f"label column {column!r} has empty entries; fill or drop them")
    names = sorted(values) if feature.dtype in STRINGS else map(_name_of_code, range(max(values) + 1))
    return ProblemType.SINGLE_LABEL, (), tuple(names)


def _word_label_names(rows: Dataset, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return declared and inferred label names of a column of lists with a label per word."""
    feature = rows.features[column]
    element = feature.feature if isinstance(feature, _LISTS) else None
    if isinstance(element, ClassLabel):
        return tuple(element.names), ()
    values = {label for labels in rows[column] for label in labels or ()} if element is not None else set()
    if None in values:
        raise InputError(f"label column {column!r} has empty entries; fill or drop them")
    if getattr(element, "dtype", None) in STRINGS:
        return (), tuple(sorted(values))
    if element is None or not element.dtype.startswith(("int", "uint")):
        raise InputError(
            f"label column {column!r} holds {feature}; for lists of words it must hold lists of labels: names or codes"
        )
    return (), tuple(map(_name_of_code, range(max(values, default=-1) + 1)))


def _multi_label_names(rows: Dataset, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return declared and inferred label names of a column of lists: of class codes, of class names, or multi-hot."""
    feature = rows.features[column].feature
    if isinstance(feature, ClassLabel):
        return tuple(feature.names), ()
    values = {value for row in rows[column] for value in row}
    if all(isinstance(value, str) for value in values):
        return (), tuple(sorted(values))
    width = len(rows[0][column])
    if values <= {0, 1} and all(len(row) == width for row in rows[column]):
        return (), tuple(map(_name_of_code, range(width)))
    raise InputError(f"label column {column!r} holds lists that are neither of class names nor multi-hot (0 and 1)")


def _name_of_code(code: int) -> str:
    """Return the name that transformers, too, gives a class without a name."""
    return f"LABEL_{code}"


def encode_labels(rows: Dataset, task: Task, columns: dict[str, str]) -> Dataset:
    """Encode the column `label` as losses and metrics take it, according to the problem type of the task.

    Args:
        rows: examples with the column `label` as it is stored; for token classification, with lists of words in `text`
            and lists with as many labels in `label`.
        task: gives the problem type, and the label names in the order of their codes.
        columns: the names of the columns `text` and `label` in the data, for messages.

    Returns:
        The rows with `label` as `int64` codes, as `float32` scores, as multi-hot lists of `float32`, or as lists of
        `int64` codes, one per word; the code -100, which marks words to ignore, stays. If all codes are -1, which is
        how data sets on the Hub hide labels, the rows come without `label`.

    Raises:
        InputError: if a label has no name among those of the task, or if an example has more or fewer labels than
            words.
    """
    return ENCODERS[task.problem_type](rows, task, columns)


def _encode_classes(rows: Dataset, task: Task, columns: dict[str, str]) -> Dataset:
    labels = rows["label"]
    if rows.features["label"].dtype in STRINGS:
        codes = _codes(task)
        _check_known(labels, codes)
        encoded = [codes[label] for label in labels]
    else:
        encoded = list(labels)
        if set(encoded) == {-1}:
            return rows.remove_columns("label")
        outside = sorted({label for label in encoded if not 0 <= label < len(task.label_names)})
        if outside:
            raise InputError(
                f"label codes {outside} have no name among the {len(task.label_names)}: {list(task.label_names)}"
            )
    return rows.remove_columns("label").add_column("label", encoded, feature=Value("int64"))


def _encode_scores(rows: Dataset, task: Task, columns: dict[str, str]) -> Dataset:
    return rows.cast_column("label", Value("float32"))


def _encode_several_labels(rows: Dataset, task: Task, columns: dict[str, str]) -> Dataset:
    """Encode lists of class names or class codes as multi-hot; keep lists that are multi-hot already."""
    holds_codes = isinstance(rows.features["label"].feature, ClassLabel)
    codes = _codes(task)

    def multi_hot(labels: list) -> list[float]:
        if all(isinstance(name, str) for name in labels):
            _check_known(labels, codes)
            active = {codes[name] for name in labels}
        elif holds_codes:
            active = set(labels)
        else:
            return [float(value) for value in labels]
        return [float(code in active) for code in range(len(codes))]

    encoded = [multi_hot(labels) for labels in rows["label"]]
    return rows.remove_columns("label").add_column("label", encoded, feature=List(Value("float32")))


def _encode_word_labels(rows: Dataset, task: Task, columns: dict[str, str]) -> Dataset:
    """Encode one label per word; names become codes, and the code -100 stays."""
    for index, (words, labels) in enumerate(zip(rows["text"], rows["label"], strict=True)):
        if len(words) != len(labels or ()):
            raise InputError(
                f"example {index} of {task.name} has {len(words)} words in {columns['text']!r}, "
                f"but {len(labels or ())} labels in {columns['label']!r}; each word needs one"
            )
    values = {label for labels in rows["label"] for label in labels}
    if values == {-1}:
        return rows.remove_columns("label")
    codes: dict[Any, int] = {code: code for code in (*range(len(task.label_names)), IGNORED_LABEL)}
    if rows.features["label"].feature.dtype in STRINGS:
        codes = _codes(task)
    if unknown := sorted(values - set(codes)):
        raise InputError(
            f"labels {unknown} in {columns['label']!r} are not among the {len(task.label_names)} labels: "
            f"{list(task.label_names)}"
        )
    if values == {IGNORED_LABEL}:
        raise InputError(
            f"all labels of {task.name} in {columns['label']!r} are {IGNORED_LABEL}, which marks words to ignore; "
            "give at least one word a label"
        )
    encoded = [[codes[label] for label in labels] for labels in rows["label"]]
    return rows.remove_columns("label").add_column("label", encoded, feature=List(Value("int64")))


def _codes(task: Task) -> dict[str, int]:
    return {name: code for code, name in enumerate(task.label_names)}


def _check_known(labels: Iterable[str], codes: dict[str, int]) -> None:
    unknown = sorted(set(labels) - set(codes))
    if unknown:
        raise InputError(f"labels {unknown} are not among the label names {list(codes)}")


ENCODERS: dict[ProblemType, Callable[[Dataset, Task, dict[str, str]], Dataset]] = {
    ProblemType.SINGLE_LABEL: _encode_classes,
    ProblemType.MULTI_LABEL: _encode_several_labels,
    ProblemType.REGRESSION: _encode_scores,
    ProblemType.TOKEN_CLASSIFICATION: _encode_word_labels,
}


def check_word_lists(texts: Iterable[list[str] | None], column: str, task: str) -> None:
    """Refuse examples without words, and empty words.

    Args:
        texts: one list of words per example.
        column, task: the names of the column and the task, for the message.

    Raises:
        InputError: for the first such example.
    """
    for index, words in enumerate(texts):
        if not words:
            raise InputError(f"example {index} of {task} has no words in {column!r}; drop it")
        if not all(word and word.strip() for word in words):
            raise InputError(f"example {index} of {task} has an empty word in {column!r}: {words}; fill or drop it")


def label_first_subwords(word_ids: Iterable[int | None], labels: Sequence[int]) -> list[int]:
    """Give each word's label to its first token, and -100 to its other tokens and to special tokens.

    Args:
        word_ids: the index of the word that each token belongs to; `None` for special tokens.
        labels: one code per word. Codes of words that the tokenizer truncated are not used.

    Returns:
        One code per token.

    Example:

    ```python
    >>> from tkd_hf.data.labels import label_first_subwords
    >>> label_first_subwords([None, 0, 1, 1, None], [7, 8, 9])
    [-100, 7, 8, -100, -100]

    ```
    """
    token_labels, previous = [], None
    for word in word_ids:
        token_labels.append(IGNORED_LABEL if word is None or word == previous else labels[word])
        previous = word
    return token_labels
