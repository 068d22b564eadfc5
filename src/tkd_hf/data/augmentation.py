"""New examples for a task out of its own: words that a masked language model proposes, or pairs put together anew.

They have no labels: what they mean now is for the teacher to say.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from datasets import Dataset, Features, Value
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import InputError
from ..hardware import mixed_precision
from ..teacher import LiveTeacher
from .unlabelled import text_key, text_keys


# A word with what is joined to it (won't, well-made), but not what an apostrophe leads: the 's of "it 's".
WORD = re.compile(r"(?<![\w'’])\w+(?:['’-]\w+)*")

# Examples whose masked texts are sorted by length together.
_WINDOW = 64


def replace_words(
    examples: Dataset,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    copies: int = 4,
    probability: float = 0.4,
    candidates: int = 15,
    words: Collection[str] | None = None,
    seed: int = 42,
    batch_size: int = 32,
    max_length: int = 128,
) -> Dataset:
    """Copies of examples in which some words are others that a masked language model proposes at their place.

    Each word is replaced with a given probability by one of the likeliest words where it alone is masked, all of them
    equally likely to be drawn. All else of a text, spaces and punctuation, stays. Each text of a pair is rewritten by
    itself: the other one would give the masked word away.

    Args:
        examples: rows with `text` and perhaps `text_pair`.
        model, tokenizer: the masked language model, on the device to run on; its weights and mode stay as they are.
        copies: of each example.
        probability: with which a word of a copy is replaced.
        candidates: how many proposals there are for each word. Pieces of words, punctuation, special tokens, and the
            word itself are never among them.
        words: propose only these, lower case; by default, whatever the model knows.
        seed: decides all draws, example by example.
        batch_size: masked texts at a time. There is one for each word that any copy replaces.
        max_length: tokens at which a text is cut; what comes after is never replaced.

    Returns:
        the new examples, copies of one example together, with the same columns of text and no others. Copies that are
        the same as an example or as another copy are left out, so there may be fewer than `copies` of each, or none.

    Raises:
        InputError: if the tokenizer has no mask token, or does not fit the model, or if no word can be proposed.

    Reference:
        Jiao et al. 2020, TinyBERT, arXiv 1909.10351, algorithm 1, with a masked language model alone: a word of
        several tokens is masked by one.
    """
    propose = _Proposer(model, tokenizer, candidates, words, batch_size, max_length)
    columns = [name for name in ("text", "text_pair") if name in examples.column_names]

    def rewrite() -> Iterator[tuple[str, ...]]:
        bar = tqdm(total=len(examples), desc="replacing words", unit="example")
        for start in range(0, len(examples), _WINDOW):
            rows = examples[start : start + _WINDOW]
            drafts = [
                _Draft(texts, copies, probability, np.random.default_rng([seed, start + place]), tokenizer.mask_token)
                for place, texts in enumerate(zip(*(rows[name] for name in columns), strict=True))
            ]
            wanted = [(draft, place) for draft in drafts for place in np.flatnonzero(draft.replaced.any(axis=0))]
            found = propose([draft.masked(place) for draft, place in wanted], [d.word(place) for d, place in wanted])
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


def words_of(examples: Dataset) -> set[str]:
    """The words of all texts, lower case.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tkd_hf.data.augmentation import words_of
    >>> sorted(words_of(Dataset.from_dict({"text": ["It 's a well-made film, isn't it?"]})))
    ['a', 'film', "isn't", 'it', 'well-made']

    ```
    """
    columns = [name for name in ("text", "text_pair") if name in examples.column_names]
    return {word.casefold() for name in columns for text in examples[name] for word in WORD.findall(text)}


class _Draft:
    """One example on its way to its copies: what is to be replaced in which copy, and by what."""

    def __init__(self, texts: tuple[str, ...], copies: int, probability: float, rng: np.random.Generator, mask: str):
        self.texts = texts
        self.mask = mask
        # a text that spells the mask token out would have two places to fill
        self.words = [
            (side, *match.span())
            for side, text in enumerate(texts)
            if mask not in text
            for match in WORD.finditer(text)
        ]
        shape = (copies, len(self.words))
        self.replaced = rng.random(shape) < probability
        self.draws = rng.random(shape)
        self.proposals: list[list[str]] = [[] for _ in self.words]

    def word(self, place: int) -> str:
        side, start, end = self.words[place]
        return self.texts[side][start:end]

    def masked(self, place: int) -> str:
        """The text of one word, with the mask in its place."""
        side, start, end = self.words[place]
        return self.texts[side][:start] + self.mask + self.texts[side][end:]

    def copies(self) -> Iterator[tuple[str, ...]]:
        for replaced, draws in zip(self.replaced, self.draws, strict=True):
            texts = list(self.texts)
            for place in reversed(np.flatnonzero(replaced)):  # from the end, so that the places before stay right
                if proposals := self.proposals[place]:
                    side, start, end = self.words[place]
                    word = proposals[int(draws[place] * len(proposals))]
                    texts[side] = texts[side][:start] + word + texts[side][end:]
            yield tuple(texts)


class _Proposer:
    """The likeliest words at the masked places of texts; arguments as in `replace_words`."""

    def __init__(self, model, tokenizer, candidates, words, batch_size, max_length):
        if tokenizer.mask_token is None:
            raise InputError(f"the tokenizer of {model.config.name_or_path!r} has no mask token to put for a word")
        if len(tokenizer) > model.config.vocab_size:
            raise InputError(
                f"the tokenizer of {model.config.name_or_path!r} has {len(tokenizer)} tokens, the model "
                f"{model.config.vocab_size}: they do not belong together"
            )
        known = _whole_words(tokenizer)
        if words is not None:
            known = {code: word for code, word in known.items() if word.casefold() in words}
        if not known:
            raise InputError(f"the vocabulary of {model.config.name_or_path!r} has no word that could be proposed")
        self.words = list(known.values())
        self.codes = torch.tensor(list(known), device=model.device)
        self.model, self.tokenizer, self.candidates, self.batch_size = model, tokenizer, candidates, batch_size
        self.max_length = min(max_length, tokenizer.model_max_length)
        self.run = LiveTeacher(model)

    def __call__(self, texts: list[str], originals: list[str]) -> list[list[str]]:
        """For each text with one mask, words other than the original, the likeliest first; none if it was cut off."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: list[list[str]] = [[] for _ in texts]
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            for place, words in self._likeliest([texts[i] for i in chunk]):
                original = originals[chunk[place]].casefold()
                others = [word for word in words if word.casefold() != original]
                found[chunk[place]] = others[: self.candidates]
        return found

    def _likeliest(self, texts: list[str]) -> Iterator[tuple[int, list[str]]]:
        batch = self.tokenizer(texts, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt")
        batch = {name: values.to(self.model.device) for name, values in batch.items()}
        rows, places = (batch["input_ids"] == self.tokenizer.mask_token_id).nonzero(as_tuple=True)
        with mixed_precision(self.model.device), _decoding_only(self.model, rows, places):
            logits = self.run(batch).logits
        if logits.dim() == 3:  # a model without a decoder of its own
            logits = logits[rows, places]
        logits = logits[:, self.codes].float()
        best = logits.topk(min(self.candidates + 1, len(self.words))).indices
        return ((row, [self.words[i] for i in line]) for row, line in zip(rows.tolist(), best.tolist(), strict=True))


@contextmanager
def _decoding_only(model: PreTrainedModel, rows: torch.Tensor, places: torch.Tensor):
    """Only these tokens reach the decoder: the logits of all the others are most of the cost of a small model."""
    decoder = model.get_output_embeddings()
    if decoder is None:
        yield
        return
    handle = decoder.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, places], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that are words by themselves, by code: those that a text with the word in it is cut into."""
    special = set(tokenizer.all_special_ids)
    codes = [code for code in sorted(tokenizer.get_vocab().values()) if code not in special]
    words = [text.strip() for text in tokenizer.batch_decode([[code] for code in codes])]
    # after a comma: some tokenizers cut the first word of a text otherwise
    before = len(tokenizer(",", add_special_tokens=False)["input_ids"])
    cut = tokenizer([f", {word}" for word in words], add_special_tokens=False)["input_ids"]
    return {
        code: word
        for code, word, ids in zip(codes, words, cut, strict=True)
        if WORD.fullmatch(word) and ids[before:] == [code]
    }


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
