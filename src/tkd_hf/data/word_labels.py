"""Labels per word, for token classification: which columns hold words and labels, and how labels become codes.

A data set for token classification has a column of lists of words and a column of lists with as many labels. The Hub
calls the latter `ner_tags`, `tags` or `labels`.
"""

from collections.abc import Iterable, Sequence

from datasets import ClassLabel, Dataset, LargeList, List, Value

from ..core.errors import InputError


# The label of words and tokens that neither losses nor metrics consider; transformers and torch use the same value.
IGNORED_LABEL = -100
WORD_COLUMNS = ("tokens", "words")
_LABEL_COLUMNS = ("ner_tags", "tags", "labels", "label")
_LISTS = (List, LargeList)
_STRINGS = ("string", "large_string")


def holds_word_lists(rows: Dataset, columns: Sequence[str]) -> bool:
    """Return whether the texts are lists of words.

    Raises:
        InputError: for lists of anything but strings, or lists of words in two columns.
    """
    lists = [column for column in columns if isinstance(rows.features.get(column), _LISTS)]
    for column in lists:
        if getattr(rows.features[column].feature, "dtype", None) not in _STRINGS:
            raise InputError(f"column {column!r} holds {rows.features[column]}, neither texts nor lists of words")
    if lists and len(columns) > 1:
        raise InputError(
            f"lists of words in {', '.join(map(repr, lists))} cannot form pairs; name only one --text-column"
        )
    return bool(lists)


def guess_label_column(rows: Dataset) -> str:
    """Return the first column with a usual name for labels per word, or `"label"` if no column has one."""
    return next((name for name in _LABEL_COLUMNS if name in rows.column_names), "label")


def word_label_names(rows: Dataset, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the label names that the data set declares, and names inferred from the values of the column.

    Raises:
        InputError: if the column does not hold lists of label names or label codes.
    """
    feature = rows.features[column]
    element = feature.feature if isinstance(feature, _LISTS) else None
    if isinstance(element, ClassLabel):
        return tuple(element.names), ()
    values = {label for labels in rows[column] for label in labels or ()} if element is not None else set()
    if None in values:
        raise InputError(f"label column {column!r} has empty entries; fill or drop them")
    if getattr(element, "dtype", None) in _STRINGS:
        return (), tuple(sorted(values))
    if element is None or not element.dtype.startswith(("int", "uint")):
        raise InputError(
            f"label column {column!r} holds {feature}; for lists of words it must hold lists of labels: names or codes"
        )
    return (), tuple(f"LABEL_{code}" for code in range(max(values, default=-1) + 1))


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


def encode_word_labels(rows: Dataset, names: tuple[str, ...], columns: dict[str, str], task: str) -> Dataset:
    """Encode the labels of words as codes; the code -100, which marks ignored words, stays.

    Args:
        rows: lists of words in `text`, and lists with as many labels in `label`.
        names: the label names in the order of their codes.
        columns: the names of the columns `text` and `label` in the data, for messages.
        task: the name of the task, for messages.

    Returns:
        The rows with `label` as lists of `int64`. If all labels are -1, which is how data sets on the Hub hide their
        labels, the rows come without `label`.

    Raises:
        InputError: if an example has more or fewer labels than words, or if a label has no name.
    """
    for index, (words, labels) in enumerate(zip(rows["text"], rows["label"], strict=True)):
        if len(words) != len(labels or ()):
            raise InputError(
                f"example {index} of {task} has {len(words)} words in {columns['text']!r}, but {len(labels or ())} "
                f"labels in {columns['label']!r}; each word needs one"
            )
    values = {label for labels in rows["label"] for label in labels}
    if values == {-1}:
        return rows.remove_columns("label")
    codes = {name: code for code, name in enumerate(names)}
    if rows.features["label"].feature.dtype not in _STRINGS:
        codes = {code: code for code in (*range(len(names)), IGNORED_LABEL)}
    if unknown := sorted(values - set(codes)):
        raise InputError(
            f"labels {unknown} in {columns['label']!r} are not among the {len(names)} labels: {list(names)}"
        )
    if values == {IGNORED_LABEL}:
        raise InputError(
            f"all labels of {task} in {columns['label']!r} are {IGNORED_LABEL}, which marks words to ignore; give at "
            "least one word a label"
        )
    encoded = [[codes[label] for label in labels] for labels in rows["label"]]
    return rows.remove_columns("label").add_column("label", encoded, feature=List(Value("int64")))


def label_first_subwords(word_ids: Iterable[int | None], labels: Sequence[int]) -> list[int]:
    """Give each word's label to its first token, and -100 to its other tokens and to special tokens.

    Args:
        word_ids: the index of the word that each token belongs to; `None` for special tokens.
        labels: one code per word. Codes of words that the tokenizer truncated are not used.

    Returns:
        One code per token.

    Example:

    ```python
    >>> from tkd_hf.data.word_labels import label_first_subwords
    >>> label_first_subwords([None, 0, 1, 1, None], [7, 8, 9])
    [-100, 7, 8, -100, -100]

    ```
    """
    token_labels, previous = [], None
    for word in word_ids:
        token_labels.append(IGNORED_LABEL if word is None or word == previous else labels[word])
        previous = word
    return token_labels
