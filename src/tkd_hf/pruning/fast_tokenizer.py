"""A fast tokenizer with fewer tokens: the same tokens for the texts that it is cut for, under new ids."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..errors import InputError


# A text, a pair of texts, or a text as its words.
Text = str | tuple[str, str] | list[str]


def prune_tokenizer(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> PreTrainedTokenizerBase:
    """A tokenizer of the same kind with these tokens alone; token `ids[i]` gets the id i.

    Args:
        tokenizer: a fast tokenizer; it stays as it is.
        ids: what to keep, ascending, with all that its own tokens need (`needed_ids`).

    Raises:
        InputError: for a kind of tokenizer that cannot be cut.
    """
    pipeline, new_ids = read_pipeline(tokenizer), {old: new for new, old in enumerate(ids)}
    vocabulary = {token: new_ids[old] for token, old in tokenizer.get_vocab().items() if old in new_ids}
    cut, _ = _KINDS[pipeline["model"]["type"]]
    cut(pipeline["model"], vocabulary)
    pipeline["added_tokens"] = [token | {"id": new_ids[token["id"]]} for token in pipeline["added_tokens"]]
    for holder, place in _ids_written(pipeline):
        holder[place] = new_ids[holder[place]]
    smaller = _reload(tokenizer, pipeline)
    if smaller.get_vocab() != vocabulary:
        raise InputError(
            f"{_name(tokenizer)} numbers its tokens anew when it is loaded, so its vocabulary cannot be cut; choose a "
            "model whose added tokens follow the others"
        )
    return smaller


def required_token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text], also: Iterable[int] = ()
) -> list[int]:
    """The tokens that a tokenizer cut for these texts has to keep, ascending.

    These are the tokens of the texts, special and added tokens, single characters and bytes, and what the kind of
    tokenizer needs to arrive at the same tokens:

    - WordPiece takes the longest piece that fits. With fewer pieces nothing longer can turn up, so pieces that were
      taken are taken again. Where it gave up on a word, its steps up to there are kept, so that it gives up again.
    - BPE joins the first pair in its list of merges. Those that led to a token of the texts stay, in their order.
    - Unigram takes the likeliest pieces, which stay the likeliest among fewer. The unlikeliest piece of all is kept,
      because the price of an unknown character follows from it.

    Args:
        also: ids to keep besides.

    Raises:
        InputError: for a kind of tokenizer that cannot be cut.
    """
    pipeline, vocabulary = read_pipeline(tokenizer), tokenizer.get_vocab()
    model = pipeline["model"]
    unknown = vocabulary.get(unknown_token(tokenizer))
    used, unknown_words = set(also) | _special_ids(tokenizer, pipeline), set()
    for text, ids in zip(texts, encode_texts(tokenizer, texts), strict=True):
        used.update(ids)
        if model["type"] == "WordPiece" and unknown in ids:
            unknown_words.update(_words(tokenizer, text))
    by_id = {id_: token for token, id_ in vocabulary.items()}
    tokens = {by_id[id_] for id_ in used}
    tokens |= {token for token in vocabulary if _is_single(token, model)}
    for word in unknown_words:
        tokens.update(_known_beginning(word, vocabulary, model["continuing_subword_prefix"]))
    _, complete = _KINDS[model["type"]]
    complete(model, tokens)
    return sorted(vocabulary[token] for token in tokens)


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text]) -> Iterator[list[int]]:
    """The ids of each text, with special tokens, whatever its length."""
    texts = iter(texts)
    while batch := list(islice(texts, 1000)):
        words = isinstance(batch[0], list)
        yield from tokenizer(batch, is_split_into_words=words, padding=False, truncation=False, verbose=False).input_ids


def read_pipeline(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What `tokenizer.json` says of a tokenizer.

    Raises:
        InputError: for a kind of tokenizer that cannot be cut.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{_name(tokenizer)} is no fast tokenizer, so its vocabulary cannot be cut; choose a model that has a "
            "tokenizer.json"
        )
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    if pipeline["model"]["type"] not in _KINDS:
        raise InputError(
            f"{_name(tokenizer)} is a {pipeline['model']['type']} tokenizer, but only the vocabularies of "
            f"{', '.join(_KINDS)} can be cut"
        )
    return pipeline


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the tokenizer writes where it knows no token; `None` where it always does."""
    return getattr(tokenizer.backend_tokenizer.model, "unk_token", None) or tokenizer.unk_token


def _special_ids(tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any]) -> set[int]:
    unknown = tokenizer.get_vocab().get(unknown_token(tokenizer))
    written = {holder[place] for holder, place in _ids_written(pipeline)}
    added = {token["id"] for token in pipeline["added_tokens"]}
    return {*tokenizer.all_special_ids, *written, *added, unknown} - {None}


def _ids_written(pipeline: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Where a pipeline writes ids beside its vocabulary, as container and place in it."""
    if pipeline.get("padding"):
        yield pipeline["padding"], "pad_id"
    processors = [pipeline["post_processor"] or {}]
    while processors:
        processor = processors.pop()
        processors += processor.get("processors", [])  # of a sequence of processors
        for name in ("sep", "cls"):  # of BertProcessing and RobertaProcessing: a token with its id
            if name in processor:
                yield processor[name], 1
        for special in processor.get("special_tokens", {}).values():  # of TemplateProcessing
            yield from ((special["ids"], place) for place in range(len(special["ids"])))


def _is_single(token: str, model: dict[str, Any]) -> bool:
    """Whether a token is one character, at whatever place in a word, or one byte."""
    bare = token.removeprefix(model.get("continuing_subword_prefix") or "")
    bare = bare.removesuffix(model.get("end_of_word_suffix") or "")
    return len(bare) == 1 or (len(token) == 6 and token.startswith("<0x") and token.endswith(">"))


def _words(tokenizer: PreTrainedTokenizerBase, text: Text) -> Iterator[str]:
    """The words of a text as they reach the model of a tokenizer."""
    normalizer, splitter = tokenizer.backend_tokenizer.normalizer, tokenizer.backend_tokenizer.pre_tokenizer
    for part in (text,) if isinstance(text, str) else text:
        part = normalizer.normalize_str(part) if normalizer else part
        yield from [word for word, _ in splitter.pre_tokenize_str(part)] if splitter else [part]


def _known_beginning(word: str, vocabulary: dict[str, int], prefix: str) -> list[str]:
    """The pieces that WordPiece takes from a word, up to where none fits."""
    pieces, start = [], 0
    while start < len(word):
        ends = range(len(word), start, -1)
        fitting = ((end, (prefix if start else "") + word[start:end]) for end in ends)
        end, piece = next(((end, piece) for end, piece in fitting if piece in vocabulary), (None, None))
        if piece is None:
            break
        pieces.append(piece)
        start = end
    return pieces


def _cut_table(model: dict[str, Any], vocabulary: dict[str, int]):
    model["vocab"] = {token: vocabulary[token] for token in model["vocab"] if token in vocabulary}


def _cut_bpe(model: dict[str, Any], vocabulary: dict[str, int]):
    _cut_table(model, vocabulary)
    merges = [(left, right, _merged(left, right, model)) for left, right in model["merges"]]
    model["merges"] = [merge[:2] for merge in merges if all(token in vocabulary for token in merge)]


def _cut_unigram(model: dict[str, Any], vocabulary: dict[str, int]):
    unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
    model["vocab"] = [entry for entry in model["vocab"] if entry[0] in vocabulary]
    model["unk_id"] = vocabulary.get(unknown)


def _needs_nothing(model: dict[str, Any], tokens: set[str]):
    pass


def _add_parts(model: dict[str, Any], tokens: set[str]):
    """Adds what tokens are merged from."""
    merges = [(left, right, _merged(left, right, model)) for left, right in model["merges"]]
    before = None
    while before != len(tokens):  # once and a check, where parts stand before what is made of them
        before = len(tokens)
        for left, right, merged in reversed(merges):
            if merged in tokens:
                tokens |= {left, right}


def _add_unlikeliest(model: dict[str, Any], tokens: set[str]):
    tokens.add(min(model["vocab"], key=lambda entry: entry[1])[0])


def _merged(left: str, right: str, model: dict[str, Any]) -> str:
    return left + right.removeprefix(model["continuing_subword_prefix"] or "")


_Step = Callable[[dict[str, Any], Any], None]

# How to cut a kind of model, and how to complete the tokens that it is to keep.
_KINDS: dict[str, tuple[_Step, _Step]] = {
    "WordPiece": (_cut_table, _needs_nothing),
    "WordLevel": (_cut_table, _needs_nothing),
    "BPE": (_cut_bpe, _add_parts),
    "Unigram": (_cut_unigram, _add_unlikeliest),
}


def _reload(tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer as `tokenizer`, but with another pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(pipeline, ensure_ascii=False), encoding="utf-8")
        smaller = AutoTokenizer.from_pretrained(folder)
    smaller.name_or_path = tokenizer.name_or_path
    return smaller


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(tokenizer.name_or_path or type(tokenizer).__name__)
