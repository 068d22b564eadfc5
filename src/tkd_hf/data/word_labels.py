"""A label a word: which columns hold words and their tags, and the tags as codes."""

from collections.abc import Iterable, Sequence

from datasets import ClassLabel, Dataset, LargeList, List, Value

from ..errors import InputError


IGNORED_LABEL = -100  # a position that does not count, in transformers and torch
WORD_COLUMNS = ("tokens", "words")
_TAG_COLUMNS = ("ner_tags", "tags", "labels", "label")
_LISTS = (List, LargeList)
_STRINGS = ("string", "large_string")


def holds_word_lists(rows: Dataset, columns: Sequence[str]) -> bool:
    """Whether the texts are lists of words.

    Raises:
        InputError: for lists of something else, or words in two columns.
    """
    lists = [column for column in columns if isinstance(rows.features.get(column), _LISTS)]
    for column in lists:
        if getattr(rows.features[column].feature, "dtype", None) not in _STRINGS:
            raise InputError(f"column {column!r} holds {rows.features[column]}, neither texts nor lists of words")
    if lists and len(columns) > 1:
        raise InputError(f"lists of words in {', '.join(map(repr, lists))} make no pairs; name one --text-column")
    return bool(lists)


def guess_label_column(rows: Dataset) -> str:
    """The column that usually holds a label a word; `"label"` if there is none of them."""
    return next((name for name in _TAG_COLUMNS if name in rows.column_names), "label")


def word_label_names(rows: Dataset, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that the data set itself carries, and names made up from the tags it holds.

    Raises:
        InputError: if the column holds no lists of tags.
    """
    feature = rows.features[column]
    tag = feature.feature if isinstance(feature, _LISTS) else None
    if isinstance(tag, ClassLabel):
        return tuple(tag.names), ()
    values = {tag for tags in rows[column] for tag in tags or ()} if tag is not None else set()
    if None in values:
        raise InputError(f"label column {column!r} has empty entries; fill or drop them")
    if getattr(tag, "dtype", None) in _STRINGS:
        return (), tuple(sorted(values))
    if tag is None or not tag.dtype.startswith(("int", "uint")):
        raise InputError(
            f"label column {column!r} holds {feature}; beside lists of words it needs lists of tags: names or codes"
        )
    return (), tuple(f"LABEL_{code}" for code in range(max(values, default=-1) + 1))


def check_word_lists(texts: Iterable[list[str] | None], column: str, task: str) -> None:
    """Refuses an example without words, and a word that is empty.

    Args:
        texts: lists of words.
        column, task: where they are from, for the message.
    """
    for place, words in enumerate(texts):
        if not words:
            raise InputError(f"example {place} of {task} has no words in {column!r}; drop it")
        if not all(word and word.strip() for word in words):
            raise InputError(f"example {place} of {task} has an empty word in {column!r}: {words}; fill or drop it")


def encode_word_labels(rows: Dataset, names: tuple[str, ...], columns: dict[str, str], task: str) -> Dataset:
    """Tags as codes; -100, a word that does not count, stays.

    Args:
        rows: lists of words in `text`, and of as many tags in `label`.
        names: the tags' names in the order of their codes.
        columns: what `text` and `label` are called in the data, for messages.
        task: the task's name, likewise.

    Returns:
        the rows with `label` as lists of `int64`; without `label` where all are -1, the Hub's sign for hidden labels.

    Raises:
        InputError: where words and tags are not as many, or a tag has no name.
    """
    for place, (words, tags) in enumerate(zip(rows["text"], rows["label"], strict=True)):
        if len(words) != len(tags or ()):
            raise InputError(
                f"example {place} of {task} has {len(words)} words in {columns['text']!r}, but {len(tags or ())} tags "
                f"in {columns['label']!r}; each word needs one"
            )
    found = {tag for tags in rows["label"] for tag in tags}
    if found == {-1}:
        return rows.remove_columns("label")
    codes = {name: code for code, name in enumerate(names)}
    if rows.features["label"].feature.dtype not in _STRINGS:
        codes = {code: code for code in (*range(len(names)), IGNORED_LABEL)}
    if unknown := sorted(found - set(codes)):
        raise InputError(f"tags {unknown} in {columns['label']!r} are not among the {len(names)} labels: {list(names)}")
    if found == {IGNORED_LABEL}:
        raise InputError(f"all tags of {task} in {columns['label']!r} are {IGNORED_LABEL}, so none of its words counts")
    encoded = [[codes[tag] for tag in tags] for tags in rows["label"]]
    return rows.remove_columns("label").add_column("label", encoded, feature=List(Value("int64")))


def label_first_subwords(word_ids: Iterable[int | None], tags: Sequence[int]) -> list[int]:
    """A word's tag at its first subword, and -100 at other subwords and special tokens.

    Args:
        word_ids: of each token, the word that it is of; `None` for special tokens.
        tags: the code of each word; those of words that were cut off fall away.

    Example:

    ```python
    >>> from tkd_hf.data.word_labels import label_first_subwords
    >>> label_first_subwords([None, 0, 1, 1, None], [7, 8, 9])
    [-100, 7, 8, -100, -100]

    ```
    """
    labels, previous = [], None
    for word in word_ids:
        labels.append(IGNORED_LABEL if word is None or word == previous else tags[word])
        previous = word
    return labels
