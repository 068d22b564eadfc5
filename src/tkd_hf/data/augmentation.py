"""New examples for a task out of its own: with other words in the place of some, or pairs put together anew.

They have no labels: what they mean now is for the teacher to say.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from datasets import Dataset, Features, Value
from tqdm.auto import tqdm

from ..errors import InputError
from .replacement_words import WORD, Place
from .unlabelled import text_key, text_keys


# Examples whose words are looked up together, so that a model can sort them by length.
_WINDOW = 64


def replace_words(
    examples: Dataset,
    propose: Callable[[list[Place]], list[list[str]]],
    copies: int = 4,
    probability: float = 0.4,
    seed: int = 42,
) -> Dataset:
    """Copies of examples in which some words are others.

    Each word is replaced with a given probability by one of those that are proposed for its place, all of them equally
    likely to be drawn. All else of a text, spaces and punctuation, stays. Each text of a pair is rewritten by itself:
    the other one would give the word away.

    Args:
        examples: rows with `text` and perhaps `text_pair`.
        propose: words for places in texts: `tkd_hf.data.replacement_words.MaskedWords` or `NearestWords`.
        copies: of each example.
        probability: with which a word of a copy is replaced.
        seed: decides all draws, example by example.

    Returns:
        the new examples, copies of one example together, with the same columns of text and no others. Copies that are
        the same as an example or as another copy are left out, so there may be fewer than `copies` of each, or none.

    Reference:
        Jiao et al. 2020, TinyBERT, arXiv 1909.10351, algorithm 1.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.augmentation import replace_words
    >>> rows = Dataset.from_dict({"text": ["a good film"]})
    >>> replace_words(rows, lambda places: [["fine"]] * len(places), copies=1, probability=1)["text"][:]
    ['fine fine fine']

    ```
    """
    columns = [name for name in ("text", "text_pair") if name in examples.column_names]

    def rewrite() -> Iterator[tuple[str, ...]]:
        bar = tqdm(total=len(examples), desc="replacing words", unit="example")
        for start in range(0, len(examples), _WINDOW):
            rows = examples[start : start + _WINDOW]
            drafts = [
                _Draft(texts, copies, probability, np.random.default_rng([seed, start + place]))
                for place, texts in enumerate(zip(*(rows[name] for name in columns), strict=True))
            ]
            wanted = [(draft, place) for draft in drafts for place in np.flatnonzero(draft.replaced.any(axis=0))]
            found = propose([draft.at(place) for draft, place in wanted])
            for (draft, place), proposals in zip(wanted, found, strict=True):
                draft.proposals[place] = proposals
            for draft in drafts:
                yield from draft.copies()
            bar.update(len(drafts))
        bar.close()

    return _new(examples, rewrite())


def shuffle_pairs(examples: Dataset, copies: int = 1, seed: int = 42) -> Dataset:
    """Pairs of the first text of one example and the second text of another.

    Args:
        examples: rows with `text` and `text_pair`.
        copies: how many new pairs each text gets into; fewer than there are examples.
        seed: decides who is paired with whom.

    Returns:
        the new pairs; those that there were already are left out.

    Raises:
        InputError: if the examples are no pairs, or too few.

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
        raise InputError(f"{copies} new partners for each of {len(examples)} texts are too many; ask for fewer copies")
    first, second = examples["text"][:], examples["text_pair"][:]
    order = np.random.default_rng(seed).permutation(len(examples))
    # neighbours in a random circle: nobody gets their own partner, and nobody the same one twice
    partners = [np.roll(order, -shift) for shift in range(1, copies + 1)]
    return _new(examples, ((first[i], second[j]) for other in partners for i, j in zip(order, other, strict=True)))


def collect_words(examples: Dataset) -> set[str]:
    """The words of all texts, lower case.

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
    """One example on its way to its copies: what is to be replaced in which copy, and by what."""

    def __init__(self, texts: tuple[str, ...], copies: int, probability: float, rng: np.random.Generator):
        self.texts = texts
        self.words = [(side, *match.span()) for side, text in enumerate(texts) for match in WORD.finditer(text)]
        shape = (copies, len(self.words))
        self.replaced = rng.random(shape) < probability
        self.draws = rng.random(shape)
        self.proposals: list[list[str]] = [[] for _ in self.words]

    def at(self, place: int) -> Place:
        side, start, end = self.words[place]
        return self.texts[side], start, end

    def copies(self) -> Iterator[tuple[str, ...]]:
        for replaced, draws in zip(self.replaced, self.draws, strict=True):
            texts = list(self.texts)
            for place in reversed(np.flatnonzero(replaced)):  # from the end, so that the places before stay right
                if proposals := self.proposals[place]:
                    side, start, end = self.words[place]
                    word = proposals[int(draws[place] * len(proposals))]
                    texts[side] = texts[side][:start] + word + texts[side][end:]
            yield tuple(texts)


def _new(examples: Dataset, made: Iterable[tuple[str, ...]]) -> Dataset:
    """What is not among the examples, once."""
    seen, new = set(text_keys(examples)), []
    for texts in made:
        key = text_key(texts)
        if key not in seen:
            seen.add(key)
            new.append(texts)
    columns = [name for name in ("text", "text_pair") if name in examples.column_names]
    rows = {name: [texts[place] for texts in new] for place, name in enumerate(columns)}
    return Dataset.from_dict(rows, features=Features(dict.fromkeys(columns, Value("string"))))
