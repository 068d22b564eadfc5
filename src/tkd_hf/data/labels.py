"""Labels: which problem a column of labels poses, what the labels are called, and how they become codes.

A data set for token classification has a column of lists of words and a column of lists with as many labels. The Hub
calls the latter `ner_tags`, `tags` or `labels`.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

from ..core.errors import InputError
from ..core.processes import log_once
from .columns import LISTS, STRINGS, check_no_gaps
from .problem_types import ProblemType
from .tasks import Task


logger = logging.getLogger(__name__)

# The label of words and tokens that neither losses nor metrics consider; transformers and torch use the same value.
IGNORED_LABEL = -100
WORD_COLUMNS = ("tokens", "words")
LABEL_COLUMNS = ("ner_tags", "tags", "labels", "label")
# More labels than this are rather numbers of rows, or texts, than classes. Names that are given lift the limit.
MAX_INFERRED_CLASSES = 5000
_NUMBER_NAME = re.compile(r"(?:LABEL_)?(-?[0-9]+)", re.ASCII)
_LIST_AS_TEXT = re.compile(r"\[\s*\]|\[\s*(?:[\"'].*[\"']|[-0-9.,\s]+)\s*\]", re.DOTALL)


def holds_word_lists(rows: Dataset, columns: Sequence[str]) -> bool:
    """Return whether the texts are lists of words.

    Raises:
        InputError: for lists of anything but strings, or lists of words in two columns.
    """
    lists = [column for column in columns if isinstance(rows.features.get(column), LISTS)]
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
    return next((name for name in LABEL_COLUMNS if name in rows.column_names), "label")


def infer_labels(
    rows: Dataset, column: str, per_word: bool, is_named: bool = False
) -> tuple[ProblemType, tuple[str, ...], tuple[str, ...]]:
    """Infer from a column of labels which problem it poses and what the labels are called.

    Args:
        rows: the data as it is stored.
        column: the column of labels.
        per_word: whether the texts are lists of words, so that each word has a label.
        is_named: whether the names of the labels are known from elsewhere, so that none have to be inferred.

    Returns:
        The problem type, the label names that the data set declares, and names inferred from the values.

    Raises:
        InputError: if the column holds nothing that can be a label, has empty entries, or implies thousands of classes.
    """
    feature, subject = rows.features[column], f"label column {column!r}"
    check_no_gaps(rows, column, subject, "empty entries")
    element = feature.feature if isinstance(feature, LISTS) else feature
    if per_word:
        if not isinstance(feature, LISTS) or not _holds_classes(element):
            raise InputError(
                f"{subject} holds {feature}; for lists of words it must hold lists of labels: names or codes"
            )
        problem_type = ProblemType.TOKEN_CLASSIFICATION
        values = {label for labels in rows[column] for label in labels} - {IGNORED_LABEL}
    elif isinstance(feature, LISTS):
        problem_type = ProblemType.MULTI_LABEL
        values = _multi_label_values(rows, column)
    elif getattr(element, "dtype", "").startswith("float"):
        return ProblemType.REGRESSION, (), ()
    elif _holds_classes(element):
        problem_type, values = ProblemType.SINGLE_LABEL, set(rows.unique(column))
    else:
        raise InputError(f"{subject} holds {feature}, neither classes nor numbers nor lists of classes")
    if isinstance(element, ClassLabel):
        return problem_type, tuple(element.names), ()
    return problem_type, (), () if is_named else _inferred_names(values, subject)


def _holds_classes(feature: Any) -> bool:
    if isinstance(feature, ClassLabel):
        return True
    dtype = feature.dtype if isinstance(feature, Value) else ""
    return dtype in (*STRINGS, "bool") or dtype.startswith(("int", "uint"))


def _holds_numbers(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "float"))


def _multi_label_values(rows: Dataset, column: str) -> set[Any]:
    """Return the class names or codes that lists of labels contain; for multi-hot lists the codes of all positions."""
    lists, element = rows[column][:], rows.features[column].feature
    values = {value for labels in lists for value in labels}
    if isinstance(element, ClassLabel) or all(isinstance(value, str) for value in values):
        return values
    widths = {len(labels) for labels in lists}
    if widths == {1}:
        raise InputError(
            f"label column {column!r} holds lists of one number, which may be a code or the 0 or 1 of a single class; "
            "write a number instead of a list, or lists of class names"
        )
    if len(widths) > 1 or not values <= {0, 1}:
        raise InputError(f"label column {column!r} holds lists that are neither of class names nor multi-hot (0 and 1)")
    return set(range(widths.pop()))


def _inferred_names(values: set[Any], subject: str) -> tuple[str, ...]:
    """Return the names of classes that nothing names, in the order of their codes.

    Codes from 0 without gaps are called `LABEL_0`, `LABEL_1` and so on, as transformers calls them. Of other codes,
    each that occurs is a class of its own, called by its number.
    """
    if len(values) > MAX_INFERRED_CLASSES:
        raise InputError(
            f"{subject} holds {len(values)} different labels, more than {MAX_INFERRED_CLASSES}; is it the right "
            "column? If so, name the classes with --label-names"
        )
    if values and all(isinstance(value, str) for value in values):
        _refuse_lists_as_text(values, subject)
        numbered = all(re.fullmatch("-?[0-9]+", name, re.ASCII) for name in values)
        return tuple(sorted(values, key=lambda name: (int(name), name) if numbered else (0, name)))
    if values <= {False, True} and any(isinstance(value, bool) for value in values):
        return ("False", "True")
    codes = sorted(values - {-1}) if values == {-1} else sorted(values)
    if codes == list(range(len(codes))):
        return tuple(f"LABEL_{code}" for code in codes)
    if codes[0] < 0:
        raise InputError(
            f"{subject} holds the code {codes[0]} beside others; drop rows whose label is hidden, or name every code, "
            f"as in --label-names={','.join(map(str, codes[:5]))}"
        )
    shown = ", ".join(map(str, codes[:10])) + (", …" if len(codes) > 10 else "")
    log_once(
        logger,
        f"{subject} holds {len(codes)} codes that are not 0 to {len(codes) - 1}; each is a class called by its number: "
        f"{shown} (name others with --label-names)",
    )
    return tuple(map(str, codes))


def _refuse_lists_as_text(names: set[str], subject: str) -> None:
    """Refuse cells that hold several labels, such as `["a", "b"]`, `[1, 0]` or `a;b`: they are no name of a class."""
    example = next((name for name in sorted(names) if _LIST_AS_TEXT.fullmatch(name.strip())), None)
    for separator in (";", "|", ","):
        parts_of = {
            name: {part.strip() for part in name.split(separator)} for name in sorted(names) if separator in name
        }
        counts = Counter(part for parts in parts_of.values() for part in parts)
        for name, parts in parts_of.items():
            # Commas occur in names of classes ("Smith, Ann"), so that one part must be a label by itself.
            if parts & names or (separator != "," and any(counts[part] > 1 for part in parts)):
                example = example or name
    if example is not None:
        raise InputError(
            f"{subject} holds several labels in one text, such as {example!r}; convert the file to jsonl with lists of "
            "labels, or name the classes with --label-names if these are names"
        )


def code_indices(names: Sequence[str]) -> dict[int, int]:
    """Return the index of the class that each code stands for.

    Names that are numbers, or `LABEL_` and a number, tell their code themselves, in whatever order they stand. The
    codes of all other names are their positions.

    Raises:
        InputError: if only some names are numbers, and not those of their positions; or if two are the same number.

    Example:

    ```python
    >>> from tkd_hf.data.labels import code_indices
    >>> code_indices(["0", "1", "10", "2"]), code_indices(["no", "yes"])
    ({0: 0, 1: 1, 10: 2, 2: 3}, {0: 0, 1: 1})

    ```
    """
    matches = [_NUMBER_NAME.fullmatch(name) for name in names]
    indices = {int(match[1]): index for index, match in enumerate(matches) if match}
    if len(indices) == len(names):
        return indices
    if any(match and int(match[1]) != index for index, match in enumerate(matches)):
        raise InputError(
            f"the label names {list(names)} do not tell which code each has, since some are numbers of other "
            "positions; write names instead of codes in the data"
        )
    return {index: index for index in range(len(names))}


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
    feature, problem_type = rows.features["label"], task.problem_type
    is_list = isinstance(feature, LISTS)
    element = feature.feature if is_list else feature
    if problem_type.has_scores:
        fits = not is_list and _holds_numbers(element)
    elif problem_type.has_several_labels:
        fits = is_list and (_holds_classes(element) or _holds_numbers(element))
    else:
        fits = is_list == problem_type.per_token and _holds_classes(element)
    if not fits:
        raise InputError(f"label column {columns['label']!r} holds {feature}, which are no labels for {problem_type}")
    return ENCODERS[task.problem_type](rows, task, columns)


def _encode_classes(rows: Dataset, task: Task, columns: dict[str, str]) -> Dataset:
    labels, feature = rows["label"][:], rows.features["label"]
    if set(labels) == {-1}:
        return rows.remove_columns("label")
    encoded = _encoded(labels, feature, task.label_names)
    return rows.remove_columns("label").add_column("label", encoded, feature=Value("int64"))


def _encoded(labels: Sequence[Any], feature: Any, names: Sequence[str]) -> list[int]:
    """Return the index of each label among the names, by whatever the data calls its labels."""
    codes = _codes_of(feature, names)
    unknown = sorted({label for label in labels if label not in codes})
    if unknown and isinstance(unknown[0], str):
        raise InputError(f"labels {unknown[:20]} are not among the label names {list(names)}")
    if unknown:
        raise InputError(f"label codes {unknown[:20]} have no name among the {len(names)}: {list(names)}")
    return [codes[label] for label in labels]


def _codes_of(feature: Any, names: Sequence[str]) -> dict[Any, int]:
    """Return the index among the names of each label that a column of that type can hold."""
    if isinstance(feature, ClassLabel):
        return _codes_of_declared(feature.names, names)
    if feature.dtype in STRINGS:
        return {name: index for index, name in enumerate(names)}
    if feature.dtype == "bool":
        booleans = {name.casefold(): index for index, name in enumerate(names)}
        if booleans.keys() <= {"true", "false"}:
            return {name == "true": index for name, index in booleans.items()}
        return {bool(code): index for code, index in code_indices(names).items() if code in (0, 1)}
    return dict(code_indices(names))


def _codes_of_declared(declared: Sequence[str], names: Sequence[str]) -> dict[Any, int]:
    """Return the index among the names of each code of a data set that names its classes itself.

    The same names in another order are matched by name. Other names are new names for the codes, in order.
    """
    if list(declared) == list(names):
        return {code: code for code in range(len(names))}
    if sorted(declared) == sorted(names):
        return {code: list(names).index(name) for code, name in enumerate(declared)}
    moved = [name for code, name in enumerate(declared) if name in names and names.index(name) != code]
    if moved:
        raise InputError(
            f"the data calls its classes {list(declared)}, but {list(names)} are given, where {moved[0]!r} has another "
            "position; give the same names, or new names for all codes in their order"
        )
    return {code: code for code in range(len(names))}


def _encode_scores(rows: Dataset, task: Task, columns: dict[str, str]) -> Dataset:
    rows = rows.cast_column("label", Value("float32"))
    check_no_gaps(rows, "label", f"label column {columns['label']!r} of {task.name}", "empty entries")
    return rows


def _encode_several_labels(rows: Dataset, task: Task, columns: dict[str, str]) -> Dataset:
    """Encode lists of class names or class codes as multi-hot; keep lists that are multi-hot already."""
    lists, element = rows["label"][:], rows.features["label"].feature
    width = len(task.label_names)
    if isinstance(element, ClassLabel) or element.dtype in STRINGS:
        active = [set(_encoded(labels, element, task.label_names)) for labels in lists]
        encoded = [[float(code in codes) for code in range(width)] for codes in active]
    else:
        encoded = [[float(value) for value in labels] for labels in lists]
        if wrong := {len(labels) for labels in lists} - {width}:
            raise InputError(
                f"the lists in {columns['label']!r} have {wrong.pop()} positions, but there are {width} label names: "
                f"{list(task.label_names)}"
            )
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
    codes = {**_codes_of(rows.features["label"].feature, task.label_names), IGNORED_LABEL: IGNORED_LABEL}
    if unknown := sorted(values - codes.keys()):
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
