"""Make new examples from the examples of a task: replace some of their words, or pair their texts differently.

The new examples have no labels, because a changed text may mean something else. The teacher's soft labels take their
place.
"""

import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from datasets import Dataset, Features, Value
from tqdm.auto import tqdm

from ..core.errors import InputError
from .unlabelled import text_key, text_keys


# A word with parts joined by apostrophes and hyphens (won't, well-made). A detached 's, as in "it 's", is skipped.
WORD = re.compile(r"(?<![\w'’])\w+(?:['’-]\w+)*")

# A text, and the start and the end of one of its words.
WordSpan = tuple[str, int, int]

# The words of this many examples are looked up in one call, so that a model can sort them by length.
_EXAMPLES_PER_CALL = 64


def replace_words(
    examples: Dataset,
    propose: Callable[[list[WordSpan]], list[list[str]]],
    copies: int = 4,
    probability: float = 0.4,
    seed: int = 42,
) -> Dataset:
    """Copy examples and replace some of their words.

    Each word of a copy is replaced with the given probability, by a word drawn uniformly from the proposals for it.
    Spaces and punctuation stay. The two texts of a pair are rewritten independently: a masked language model that sees
    the other text would often copy the masked word from there.

    Use it if the task has few examples: the student then sees more of the teacher's behaviour. A high probability gives
    texts that no longer resemble those of the task.

    Args:
        examples: rows with `text` and optionally `text_pair`.
        propose: returns replacements for words in their texts: a `tkd_hf.teachers.replacement_words.MaskedWords` or
            `NearestWords`.
        copies: the number of copies per example.
        probability: the probability of replacing a word.
        seed: random seed. The copies of an example depend only on the seed and the example's index.

    Returns:
        The new examples with the text columns alone, all copies of an example together. Copies that equal an example or
        another copy are left out, so an example may have fewer than `copies`, or none.

    Reference:
        Jiao et al. 2020, TinyBERT, arXiv 1909.10351, algorithm 1.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.augmentation import replace_words
    >>> rows = Dataset.from_dict({"text": ["a good film"]})
    >>> replace_words(rows, lambda spans: [["fine"]] * len(spans), copies=1, probability=1)["text"][:]
    ['fine fine fine']

    ```
    """
    columns = [name for name in ("text", "text_pair") if name in examples.column_names]

    def rewrite() -> Iterator[tuple[str, ...]]:
        bar = tqdm(total=len(examples), desc="replacing words", unit="example")
        for start in range(0, len(examples), _EXAMPLES_PER_CALL):
            rows = examples[start : start + _EXAMPLES_PER_CALL]
            drafts = [
                _Draft(texts, copies, probability, np.random.default_rng([seed, start + index]))
                for index, texts in enumerate(zip(*(rows[name] for name in columns), strict=True))
            ]
            requests = [
                (draft, word) for draft in drafts for word in np.flatnonzero(draft.replaced.any(axis=0)).tolist()
            ]
            proposals = propose([draft.span(word) for draft, word in requests])
            for (draft, word), replacements in zip(requests, proposals, strict=True):
                draft.replacements[word] = replacements
            for draft in drafts:
                yield from draft.copies()
            bar.update(len(drafts))
        bar.close()

    return _new_examples(examples, rewrite())


def shuffle_pairs(examples: Dataset, copies: int = 1, seed: int = 42) -> Dataset:
    """Pair the first text of each example with the second text of another example.

    Args:
        examples: rows with `text` and `text_pair`.
        copies: the number of new pairs per text; less than the number of examples.
        seed: random seed of the pairing.

    Returns:
        The new pairs. Pairs that are among the examples are left out.

    Raises:
        InputError: if the examples are single texts, or if `copies` is not less than their number.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.augmentation import shuffle_pairs
    >>> new = shuffle_pairs(Dataset.from_dict({"text": ["a", "b"], "text_pair": ["c", "d"]}))
    >>> sorted(zip(new["text"], new["text_pair"]))
    [('a', 'd'), ('b', 'c')]

    ```
    """
    if "text_pair" not in examples.column_names:
        raise InputError("only pairs of texts can be shuffled, and these examples have one text each")
    if copies >= len(examples):
        raise InputError(
            f"{copies} new pairs per text are too many for {len(examples)} examples; ask for fewer copies than examples"
        )
    first, second = examples["text"][:], examples["text_pair"][:]
    # In a random circle, the partner is the neighbour at distance 1, 2, …: never the text's own, and never one twice.
    circle = np.random.default_rng(seed).permutation(len(examples))
    pairs = (
        (first[i], second[j])
        for distance in range(1, copies + 1)
        for i, j in zip(circle, np.roll(circle, -distance), strict=True)
    )
    return _new_examples(examples, pairs)


def collect_words(examples: Dataset) -> set[str]:
    """Return the words of all texts, in lower case.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.augmentation import collect_words
    >>> sorted(collect_words(Dataset.from_dict({"text": ["It 's a well-made film, isn't it?"]})))
    ['a', 'film', "isn't", 'it', 'well-made']

    ```
    """
    columns = [name for name in ("text", "text_pair") if name in examples.column_names]
    return {word.casefold() for name in columns for text in examples[name] for word in WORD.findall(text)}


class _Draft:
    """The copies of one example in preparation: which of its words are replaced in which copy, and by what.

    Attributes:
        replaced: (copies, words) of bool.
        draws: (copies, words) of numbers from 0 to 1, which select a replacement.
        replacements: for each word the proposals for it.
    """

    def __init__(self, texts: tuple[str, ...], copies: int, probability: float, rng: np.random.Generator):
        self.texts = texts
        self.words = [(column, *match.span()) for column, text in enumerate(texts) for match in WORD.finditer(text)]
        shape = (copies, len(self.words))
        self.replaced = rng.random(shape) < probability
        self.draws = rng.random(shape)
        self.replacements: list[list[str]] = [[] for _ in self.words]

    def span(self, word: int) -> WordSpan:
        column, start, end = self.words[word]
        return self.texts[column], start, end

    def copies(self) -> Iterator[tuple[str, ...]]:
        for replaced, draws in zip(self.replaced, self.draws, strict=True):
            texts = list(self.texts)
            # Replace from the last word to the first: the positions of the words before stay valid.
            for word in reversed(np.flatnonzero(replaced).tolist()):
                if replacements := self.replacements[word]:
                    column, start, end = self.words[word]
                    replacement = replacements[int(draws[word] * len(replacements))]
                    texts[column] = texts[column][:start] + replacement + texts[column][end:]
            yield tuple(texts)


def _new_examples(examples: Dataset, candidates: Iterable[tuple[str, ...]]) -> Dataset:
    """Return the candidates that are not among the examples, without repetitions."""
    seen, new = set(text_keys(examples)), []
    for texts in candidates:
        key = text_key(texts)
        if key not in seen:
            seen.add(key)
            new.append(texts)
    columns = [name for name in ("text", "text_pair") if name in examples.column_names]
    rows = {name: [texts[index] for texts in new] for index, name in enumerate(columns)}
    return Dataset.from_dict(rows, features=Features(dict.fromkeys(columns, Value("string"))))
