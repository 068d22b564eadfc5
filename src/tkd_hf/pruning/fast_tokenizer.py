"""Prune a fast tokenizer: remove tokens, and split the texts of a corpus into the same tokens as before.

A kind of tokenizer needs two functions, registered in `_MODEL_TYPES`: one that removes tokens from its model, and one
that adds the tokens without which the remaining tokens could not be reached.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..core.errors import InputError
from ..models.loading import reload_tokenizer


# A text, a pair of texts, or a text split into words.
Text = str | tuple[str, str] | list[str]


def prune_tokenizer(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> PreTrainedTokenizerBase:
    """Return a tokenizer of the same kind with only these tokens; token `token_ids[i]` gets the new id `i`.

    Args:
        tokenizer: a fast tokenizer. It is not changed.
        token_ids: ids to keep, in ascending order, including those that other tokens need (see `required_token_ids`).

    Raises:
        InputError: if this kind of tokenizer cannot be pruned.
    """
    pipeline, new_ids = read_pipeline(tokenizer), {old: new for new, old in enumerate(token_ids)}
    vocabulary = {token: new_ids[old] for token, old in tokenizer.get_vocab().items() if old in new_ids}
    prune_model, _ = _MODEL_TYPES[pipeline["model"]["type"]]
    prune_model(pipeline["model"], vocabulary)
    pipeline["added_tokens"] = [token | {"id": new_ids[token["id"]]} for token in pipeline["added_tokens"]]
    for container, key in _ids_in_pipeline(pipeline):
        container[key] = new_ids[container[key]]
    smaller = _reload(tokenizer, pipeline)
    if smaller.get_vocab() != vocabulary:
        raise InputError(
            f"{_name(tokenizer)} changes the ids of its tokens when it is loaded, so its vocabulary cannot be pruned; "
            "choose a model whose added tokens follow the others"
        )
    return smaller


def required_token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text], also: Iterable[int] = ()
) -> list[int]:
    """Return the ids that a tokenizer must keep to split these texts into the same tokens, in ascending order.

    These are the tokens of the texts, special and added tokens, single characters and bytes, and further tokens that
    depend on the kind of tokenizer:

    - WordPiece takes the longest piece that fits. If pieces are removed, no longer piece can appear, so it takes the
      same pieces again. If it gave up on a word in the middle, the pieces before that point stay, so that it gives up
      on this word again.
    - BPE joins the first pair in its list of merges. The merges that lead to a token of the texts stay, in their order.
    - Unigram takes the most likely pieces, and they stay the most likely among fewer. The least likely piece of all
      stays, because the penalty of an unknown character is computed from it.

    Args:
        tokenizer: a fast tokenizer.
        texts: texts that must keep their tokens.
        also: further ids to keep.

    Raises:
        InputError: if this kind of tokenizer cannot be pruned.
    """
    pipeline, vocabulary = read_pipeline(tokenizer), tokenizer.get_vocab()
    model = pipeline["model"]
    unknown_id = _unknown_id(tokenizer)
    used_ids = set(also) | _special_ids(tokenizer, pipeline)
    unknown_words: set[str] = set()
    for text, ids in zip(texts, encode_texts(tokenizer, texts), strict=True):
        used_ids.update(ids)
        if model["type"] == "WordPiece" and unknown_id in ids:
            unknown_words.update(_words(tokenizer, text))
    tokens_by_id = {token_id: token for token, token_id in vocabulary.items()}
    tokens = {tokens_by_id[token_id] for token_id in used_ids}
    tokens |= {token for token in vocabulary if _is_single(token, model)}
    for word in unknown_words:
        tokens.update(_pieces_until_unknown(word, vocabulary, model["continuing_subword_prefix"]))
    _, add_required = _MODEL_TYPES[model["type"]]
    add_required(model, tokens)
    return sorted(vocabulary[token] for token in tokens)


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text]) -> Iterator[list[int]]:
    """Yield the ids of each text, with special tokens and without truncation."""
    texts = iter(texts)
    while batch := list(islice(texts, 1000)):
        words = isinstance(batch[0], list)
        yield from tokenizer(batch, is_split_into_words=words, padding=False, truncation=False, verbose=False).input_ids


def read_pipeline(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the content of a tokenizer's `tokenizer.json`.

    Raises:
        InputError: if this kind of tokenizer cannot be pruned.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{_name(tokenizer)} is a slow tokenizer, so its vocabulary cannot be pruned; choose a model with a "
            "tokenizer.json"
        )
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    if pipeline["model"]["type"] not in _MODEL_TYPES:
        raise InputError(
            f"{_name(tokenizer)} is a {pipeline['model']['type']} tokenizer, but only the vocabularies of "
            f"{', '.join(_MODEL_TYPES)} can be pruned"
        )
    return pipeline


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the token for text that no other token covers; `None` if the tokenizer covers any text."""
    return getattr(tokenizer.backend_tokenizer.model, "unk_token", None) or tokenizer.unk_token


def tokens_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """Return the tokens with these ids."""
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [tokens] if isinstance(tokens, str) else tokens


def _unknown_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    token = unknown_token(tokenizer)
    return None if token is None else tokenizer.get_vocab().get(token)


def _special_ids(tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any]) -> set[int]:
    pipeline_ids = {container[key] for container, key in _ids_in_pipeline(pipeline)}
    added_ids = {token["id"] for token in pipeline["added_tokens"]}
    token_ids = (*tokenizer.all_special_ids, *pipeline_ids, *added_ids, _unknown_id(tokenizer))
    return {token_id for token_id in token_ids if token_id is not None}


def _ids_in_pipeline(pipeline: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the container and key of every token id that a pipeline stores outside its vocabulary."""
    if pipeline.get("padding"):
        yield pipeline["padding"], "pad_id"
    processors = [pipeline["post_processor"] or {}]
    while processors:
        processor = processors.pop()
        processors += processor.get("processors", [])  # if it is a sequence of processors
        for name in ("sep", "cls"):  # in BertProcessing and RobertaProcessing, a token with its id
            if name in processor:
                yield processor[name], 1
        for special in processor.get("special_tokens", {}).values():  # in TemplateProcessing
            yield from ((special["ids"], index) for index in range(len(special["ids"])))


def _is_single(token: str, model: dict[str, Any]) -> bool:
    """Return whether a token is a single character, at any position in a word, or a single byte."""
    bare = token.removeprefix(model.get("continuing_subword_prefix") or "")
    bare = bare.removesuffix(model.get("end_of_word_suffix") or "")
    return len(bare) == 1 or (len(token) == 6 and token.startswith("<0x") and token.endswith(">"))


def _words(tokenizer: PreTrainedTokenizerBase, text: Text) -> Iterator[str]:
    """Yield the words of a text in the form in which they reach the tokenizer's model."""
    normalizer, splitter = tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.pre_tokenizer
    for part in (text,) if isinstance(text, str) else text:
        part = normalizer.normalize_str(part) if normalizer else part
        yield from [word for word, _ in splitter.pre_tokenize_str(part)] if splitter else [part]


def _pieces_until_unknown(word: str, vocabulary: dict[str, int], prefix: str) -> list[str]:
    """Return the pieces that WordPiece takes from a word before it meets a part that no piece fits."""
    pieces: list[str] = []
    start = 0
    while start < len(word):
        candidates = (((prefix if start else "") + word[start:end], end) for end in range(len(word), start, -1))
        longest = next((candidate for candidate in candidates if candidate[0] in vocabulary), None)
        if longest is None:
            break
        piece, start = longest
        pieces.append(piece)
    return pieces


def _prune_table(model: dict[str, Any], vocabulary: dict[str, int]) -> None:
    """Prune a model whose vocabulary is a table of tokens and ids."""
    model["vocab"] = {token: vocabulary[token] for token in model["vocab"] if token in vocabulary}


def _prune_bpe(model: dict[str, Any], vocabulary: dict[str, int]) -> None:
    _prune_table(model, vocabulary)
    merges = [(left, right, _merged_token(left, right, model)) for left, right in model["merges"]]
    model["merges"] = [merge[:2] for merge in merges if all(token in vocabulary for token in merge)]


def _prune_unigram(model: dict[str, Any], vocabulary: dict[str, int]) -> None:
    if model["unk_id"] is not None:
        model["unk_id"] = vocabulary.get(model["vocab"][model["unk_id"]][0])
    model["vocab"] = [entry for entry in model["vocab"] if entry[0] in vocabulary]


def _add_nothing(model: dict[str, Any], tokens: set[str]) -> None:
    """Add no tokens: this kind of tokenizer reaches each of its tokens without others."""


def _add_merge_parts(model: dict[str, Any], tokens: set[str]) -> None:
    """Add the tokens from which tokens are merged, and those from which these are merged."""
    merges = [(left, right, _merged_token(left, right, model)) for left, right in model["merges"]]
    size_before = None
    # Parts usually precede the tokens merged from them, so that one pass adds all and the next one adds nothing.
    while size_before != len(tokens):
        size_before = len(tokens)
        for left, right, merged in reversed(merges):
            if merged in tokens:
                tokens |= {left, right}


def _add_least_likely(model: dict[str, Any], tokens: set[str]) -> None:
    tokens.add(min(model["vocab"], key=lambda entry: entry[1])[0])


def _merged_token(left: str, right: str, model: dict[str, Any]) -> str:
    return left + right.removeprefix(model["continuing_subword_prefix"] or "")


_Step = Callable[[dict[str, Any], Any], None]

# Per kind of tokenizer model: a function that removes tokens from it, and one that adds tokens that it must keep.
_MODEL_TYPES: dict[str, tuple[_Step, _Step]] = {
    "WordPiece": (_prune_table, _add_nothing),
    "WordLevel": (_prune_table, _add_nothing),
    "BPE": (_prune_bpe, _add_merge_parts),
    "Unigram": (_prune_unigram, _add_least_likely),
}


def _reload(tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer with another pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(pipeline, ensure_ascii=False), encoding="utf-8")
        smaller = reload_tokenizer(folder)
    smaller.name_or_path = tokenizer.name_or_path
    return smaller


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(tokenizer.name_or_path or type(tokenizer).__name__)
