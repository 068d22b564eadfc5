"""Words to put in another's place: those that a masked language model expects there, or the nearest in meaning."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import InputError
from ..hardware import mixed_precision
from ..teacher import LiveTeacher


# A word with what is joined to it (won't, well-made), but not what an apostrophe leads: the 's of "it 's".
WORD = re.compile(r"(?<![\w'’])\w+(?:['’-]\w+)*")

# A text, and where in it a word starts and ends.
Place = tuple[str, int, int]


class MaskedWords:
    """The words that a masked language model finds likeliest where a word alone is masked.

    Args:
        model, tokenizer: the masked language model, on the device to run on; its weights and mode stay as they are.
        candidates: how many proposals there are for each word. Pieces of words, punctuation, special tokens, and the
            word itself are never among them.
        words: propose only these, lower case; by default, whatever the model knows.
        batch_size: masked texts at a time.
        max_length: tokens at which a text is cut; there are no proposals for what comes after.

    Raises:
        InputError: if the tokenizer has no mask token, or does not fit the model, or if no word can be proposed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        candidates: int = 15,
        words: Collection[str] | None = None,
        batch_size: int = 32,
        max_length: int = 128,
    ):
        if tokenizer.mask_token is None:
            raise InputError(f"the tokenizer of {model.config.name_or_path!r} has no mask token to put for a word")
        known = _only(words, _known(model, tokenizer), model)
        self.words = list(known.values())
        self.codes = torch.tensor(list(known), device=model.device)
        self.model, self.tokenizer, self.candidates, self.batch_size = model, tokenizer, candidates, batch_size
        self.max_length = min(max_length, tokenizer.model_max_length)
        self.run = LiveTeacher(model)

    def __call__(self, places: list[Place]) -> list[list[str]]:
        """For the word at each place others, the likeliest first; perhaps none."""
        mask = self.tokenizer.mask_token
        masked = [text[:start] + mask + text[end:] for text, start, end in places]
        order = sorted(range(len(places)), key=lambda i: -len(masked[i]))
        # a text that spells the mask token out would have two places to fill
        order = [i for i in order if mask not in places[i][0]]
        found: list[list[str]] = [[] for _ in places]
        for first in range(0, len(order), self.batch_size):
            chunk = order[first : first + self.batch_size]
            for row, words in self._likeliest([masked[i] for i in chunk]):
                text, start, end = places[chunk[row]]
                found[chunk[row]] = _others(words, text[start:end])[: self.candidates]
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


class NearestWords:
    """The words whose embeddings in a model point most nearly where a word's own does, wherever it stands.

    Any encoder has such embeddings, the teacher too, where a masked language model has to be found first.

    Args:
        model, tokenizer: the encoder, with or without a head.
        candidates, words: as in `MaskedWords`. A word of several tokens has no embedding of its own, and no proposals.

    Raises:
        InputError: if the tokenizer does not fit the model, or if no word can be proposed.

    Reference:
        Jiao et al. 2020, TinyBERT, arXiv 1909.10351, algorithm 1, which takes GloVe's embeddings, for words of several
        tokens alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        candidates: int = 15,
        words: Collection[str] | None = None,
    ):
        weight = model.get_input_embeddings().weight.detach().float()
        directions = nn.functional.normalize(weight, dim=-1)
        known = _known(model, tokenizer)
        chosen = _only(words, known, model)
        self.code_of = {word: code for code, word in known.items()}
        self.words, self.choices = list(chosen.values()), directions[list(chosen)]
        self.directions, self.candidates = directions, candidates
        self.found: dict[str, list[str]] = {}

    def __call__(self, places: list[Place]) -> list[list[str]]:
        """For the word at each place others, the nearest first; perhaps none."""
        return [self._nearest(text[start:end]) for text, start, end in places]

    def _nearest(self, word: str) -> list[str]:
        if word not in self.found:
            code = self.code_of.get(word, self.code_of.get(word.casefold()))
            self.found[word] = [] if code is None else self._of(code, word)
        return self.found[word]

    def _of(self, code: int, word: str) -> list[str]:
        cosines = self.choices @ self.directions[code]
        # a cased model has a word in up to three ways
        best = cosines.topk(min(self.candidates + 3, len(self.words))).indices.tolist()
        return _others([self.words[i] for i in best], word)[: self.candidates]


def _others(words: list[str], original: str) -> list[str]:
    return [word for word in words if word.casefold() != original.casefold()]


def _known(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The words that a model knows, by code."""
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"the tokenizer of {model.config.name_or_path!r} has {len(tokenizer)} tokens, the model "
            f"{model.config.vocab_size}: they do not belong together"
        )
    return _whole_words(tokenizer)


def _only(words: Collection[str] | None, known: dict[int, str], model: PreTrainedModel) -> dict[int, str]:
    """Those of the known words that may be proposed."""
    chosen = {code: word for code, word in known.items() if words is None or word.casefold() in words}
    if not chosen:
        raise InputError(f"the vocabulary of {model.config.name_or_path!r} has no word that could be proposed")
    return chosen


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
