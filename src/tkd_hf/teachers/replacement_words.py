"""Propose words that can replace a word of a text: those a masked language model expects, or the nearest in meaning."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.errors import InputError
from ..core.hardware import mixed_precision
from ..data.augmentation import WORD, WordSpan
from ..data.tokenization import check_max_length
from .teacher import LiveTeacher


class MaskedWords:
    """Propose the words that a masked language model finds most likely for a masked word.

    The proposals fit the sentence, but may reverse its meaning, as *bad* does for *good*. The label of the original
    therefore no longer holds, and a teacher must label the new text. Each word costs a pass through the model.

    Args:
        model, tokenizer: the masked language model, on the device to run on. Its weights and its mode (training or
            evaluation) stay as they are.
        candidates: the number of proposals per word. Pieces of words, punctuation, special tokens and the word itself
            are never proposed.
        words: propose only these words, in lower case; by default, all words of the vocabulary.
        batch_size: the number of masked texts per batch.
        max_length: the number of tokens at which a text is truncated. Words after that have no proposals.

    Raises:
        InputError: if the tokenizer has no mask token or does not fit the model, or if no word can be proposed.

    Example (`mlm`, `tokenizer`: a masked language model and its tokenizer):

        proposals = MaskedWords(mlm, tokenizer, candidates=3)([("a good film", 2, 6)])
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
            raise InputError(
                f"the tokenizer of {model.config.name_or_path!r} has no mask token to put in place of a word; choose a "
                "masked language model"
            )
        vocabulary = _allowed_words(_vocabulary_words(model, tokenizer), words, model)
        self.words = list(vocabulary.values())
        self.codes = torch.tensor(list(vocabulary), device=model.device)
        self.model, self.tokenizer, self.candidates, self.batch_size = model, tokenizer, candidates, batch_size
        self.max_length = check_max_length(tokenizer, max_length)
        self.run = LiveTeacher(model)

    def __call__(self, spans: list[WordSpan]) -> list[list[str]]:
        """Return replacements for each word, the most likely first; the list may be empty."""
        mask = self.tokenizer.mask_token
        masked = [text[:start] + mask + text[end:] for text, start, end in spans]
        order = sorted(range(len(spans)), key=lambda i: -len(masked[i]))
        # A text that itself contains the mask token would have two masked positions.
        order = [i for i in order if mask not in spans[i][0]]
        proposals: list[list[str]] = [[] for _ in spans]
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            for row, words in self._most_likely([masked[i] for i in batch]):
                text, word_start, word_end = spans[batch[row]]
                proposals[batch[row]] = _without(text[word_start:word_end], words)[: self.candidates]
        return proposals

    def _most_likely(self, texts: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield the row and the most likely words of every text whose mask was not truncated."""
        batch = self.tokenizer(texts, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt")
        batch = {name: values.to(self.model.device) for name, values in batch.items()}
        rows, positions = (batch["input_ids"] == self.tokenizer.mask_token_id).nonzero(as_tuple=True)
        with mixed_precision(self.model.device), _decode_only(self.model, rows, positions):
            logits = self.run(batch).logits
        assert logits is not None  # only a bare encoder has none
        if logits.dim() == 3:  # the model has no separate decoder, so it gave logits for all tokens
            logits = logits[rows, positions]
        logits = logits[:, self.codes].float()
        best = logits.topk(min(self.candidates + 1, len(self.words))).indices
        return (
            (row, [self.words[i] for i in indices]) for row, indices in zip(rows.tolist(), best.tolist(), strict=True)
        )


class NearestWords:
    """Propose the words whose embeddings have the highest cosine similarity with that of the word.

    The proposals do not depend on the sentence. Any encoder will do, such as the teacher itself, and a word costs no
    pass through it.

    Args:
        model, tokenizer: the encoder, with or without a head.
        candidates, words: as in `MaskedWords`. A word of several tokens has no embedding, and so no proposals.

    Raises:
        InputError: if the tokenizer does not fit the model, or if no word can be proposed.

    Reference:
        Jiao et al. 2020, TinyBERT, arXiv 1909.10351, algorithm 1. TinyBERT uses GloVe embeddings, and only for words of
        several tokens.

    Example (`encoder`, `tokenizer`: any encoder and its tokenizer):

        proposals = NearestWords(encoder, tokenizer, candidates=3)([("a good film", 2, 6)])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        candidates: int = 15,
        words: Collection[str] | None = None,
    ):
        weight = model.get_input_embeddings().weight
        assert isinstance(weight, torch.Tensor)
        directions = nn.functional.normalize(weight.detach().float(), dim=-1)
        vocabulary = _vocabulary_words(model, tokenizer)
        allowed = _allowed_words(vocabulary, words, model)
        self.code_of = {word: code for code, word in vocabulary.items()}
        self.words, self.allowed_directions = list(allowed.values()), directions[list(allowed)]
        self.directions, self.candidates = directions, candidates
        self.cache: dict[str, list[str]] = {}

    def __call__(self, spans: list[WordSpan]) -> list[list[str]]:
        """Return replacements for each word, the nearest first; the list may be empty."""
        return [self._nearest(text[start:end]) for text, start, end in spans]

    def _nearest(self, word: str) -> list[str]:
        if word not in self.cache:
            code = self.code_of.get(word, self.code_of.get(word.casefold()))
            self.cache[word] = [] if code is None else self._nearest_to_code(code, word)
        return self.cache[word]

    def _nearest_to_code(self, code: int, word: str) -> list[str]:
        cosines = self.allowed_directions @ self.directions[code]
        # A cased vocabulary may hold the word itself in three spellings (good, Good, GOOD), which are not proposed.
        best = cosines.topk(min(self.candidates + 3, len(self.words))).indices.tolist()
        return _without(word, [self.words[i] for i in best])[: self.candidates]


def _without(original: str, words: list[str]) -> list[str]:
    return [word for word in words if word.casefold() != original.casefold()]


def _vocabulary_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the words in the vocabulary of a model, by token id."""
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"the tokenizer of {model.config.name_or_path!r} has {len(tokenizer)} tokens, the model "
            f"{model.config.vocab_size}: they do not belong together"
        )
    return _single_token_words(tokenizer)


def _allowed_words(vocabulary: dict[int, str], words: Collection[str] | None, model: PreTrainedModel) -> dict[int, str]:
    """Restrict a vocabulary to the words that may be proposed."""
    allowed = {code: word for code, word in vocabulary.items() if words is None or word.casefold() in words}
    if not allowed:
        raise InputError(f"the vocabulary of {model.config.name_or_path!r} has no word that could be proposed")
    return allowed


@contextmanager
def _decode_only(model: PreTrainedModel, rows: torch.Tensor, positions: torch.Tensor) -> Iterator[None]:
    """Compute logits only at these positions: at all positions they are most of the cost of a small model."""
    decoder = model.get_output_embeddings()
    if decoder is None:
        yield
        return
    handle = decoder.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, positions], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _single_token_words(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the words that the tokenizer encodes as one token in the middle of a text, by token id."""
    special = set(tokenizer.all_special_ids)
    codes = [code for code in sorted(tokenizer.get_vocab().values()) if code not in special]
    words = [text.strip() for text in tokenizer.batch_decode([[code] for code in codes])]
    # Some tokenizers encode the first word of a text differently, so each word is encoded after a comma.
    prefix_length = len(tokenizer(",", add_special_tokens=False)["input_ids"])
    encoded = tokenizer([f", {word}" for word in words], add_special_tokens=False)["input_ids"]
    return {
        code: word
        for code, word, ids in zip(codes, words, encoded, strict=True)
        if WORD.fullmatch(word) and ids[prefix_length:] == [code]
    }
