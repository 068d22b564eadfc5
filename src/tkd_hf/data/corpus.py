"""A corpus to pre-train on: raw text, read as a stream, packed into sequences of one length, and masked."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset_builder
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from ..errors import InputError, first_line
from .loading import explain_hub_errors


_LOADERS = {".txt": "text", ".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}

# What is held out where the corpus has no split for evaluation: a share of the sequences, within bounds.
_HELD_OUT, _FEWEST, _MOST = 0.01, 8, 1000


@dataclass(frozen=True)
class CorpusArguments:
    """Where the text comes from, and into what it is packed.

    Args:
        dataset: a Hub id, or a local file or a folder of files (txt, parquet, json, jsonl, csv).
        config: the configuration of a Hub data set.
        text_column: the column of text; by default `text`, or `sentence`. Lines are the rows of txt files.
        train_split: the split to train on, `train` by default; of local files the one of that name (`train.txt`), by
            default all but the one to evaluate on.
        eval_split: the split to evaluate on, likewise; by default one sequence in a hundred is held out.
        max_length: tokens of every sequence, `[CLS]` and `[SEP]` included.
        max_sequences: where to stop reading; by default at the end.
    """

    dataset: str
    config: str | None = None
    text_column: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    max_length: int = 128
    max_sequences: int | None = None

    def __post_init__(self):
        if self.max_length < 4:
            raise InputError(f"max_length={self.max_length} leaves no room for text; give at least 4 tokens")


def load_corpus(corpus: CorpusArguments, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, Dataset]:
    """The sequences to train on and those to evaluate on.

    Texts are joined in their order, with the tokenizer's separator between them, and cut into sequences
    `[CLS] … [SEP]` of exactly `max_length` tokens; what is left at the end is dropped. The text is read as a stream,
    and the sequences lie in the cache of `datasets` on disk, so that memory does not grow with the corpus, an epoch
    can be shuffled as a whole, and a resumed run finds its place.

    Returns:
        two data sets with the column `input_ids`.

    Raises:
        InputError: for a data set that cannot be read, without such a column, or too short, and for a tokenizer that
            lacks a token this needs.
    """
    for name in ("mask_token", "cls_token", "sep_token"):
        if getattr(tokenizer, name) is None:
            raise InputError(
                f"the tokenizer {tokenizer.name_or_path!r} has no {name}, but masked language modelling needs one; "
                "choose a BERT-like one with --tokenizer"
            )
    sequences = _packed(corpus, "train", tokenizer)
    if corpus.eval_split:
        return sequences, _packed(corpus, "eval", tokenizer)
    if len(sequences) < 2:
        raise InputError(
            f"{corpus.dataset} is one sequence of {corpus.max_length} tokens, so none is left to evaluate on; lower "
            "--max-length, or name a split with --eval-split"
        )
    count = min(max(int(_HELD_OUT * len(sequences)), _FEWEST), _MOST, len(sequences) // 2)
    split = sequences.train_test_split(test_size=count, seed=0)  # the same for all seeds of training
    return split["train"], split["test"]


class MaskingCollator(DataCollatorForLanguageModeling):
    """Masks tokens for masked language modelling, as `transformers` does, by a generator that the batch itself seeds.

    Shuffling makes every batch a new one, so that the masks are new in each epoch; but a resumed run masks as the
    uninterrupted one would have done, and every evaluation as the one before. (The global generator would do neither:
    batches are fetched ahead of the step that a checkpoint is written at.)

    Returns:
        `input_ids`, `attention_mask`, `labels` (-100 where nothing is to be predicted) and `prediction_mask` (where
        something is), each `(batch, length)`.

    Example (`tokenizer`: with a mask token):

        collator = MaskingCollator(tokenizer, mlm_probability=0.15, seed=42)
    """

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        input_ids = _stacked(examples)
        content = hashlib.sha256(f"{self.seed} ".encode() + input_ids.numpy().tobytes())
        self.generator = torch.Generator().manual_seed(int.from_bytes(content.digest()[:7], "big"))
        special = torch.isin(input_ids, torch.tensor(self.tokenizer.all_special_ids))
        input_ids, labels = self.torch_mask_tokens(input_ids, special_tokens_mask=special)
        mask = torch.ones_like(input_ids)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels, "prediction_mask": labels != -100}


def stack_sequences(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Collates sequences without masking them, for what is learnt from the teacher's features alone."""
    input_ids = _stacked(examples)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def corpus_fingerprint(sequences: Dataset) -> str:
    """A short hash of sequences, in order."""
    digest = hashlib.sha256()
    for batch in sequences.with_format("numpy").iter(10_000):
        digest.update(batch["input_ids"].tobytes())
    return digest.hexdigest()[:16]


def _stacked(examples: list[dict]) -> torch.Tensor:
    return torch.tensor([example["input_ids"] for example in examples])


def _packed(corpus: CorpusArguments, part: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The sequences of one part, `"train"` or `"eval"`, from the cache where they have been packed before."""
    stream, state = _stream(corpus, part)
    column = _text_column(corpus, stream)
    try:
        return Dataset.from_generator(
            _sequences,
            features=Features({"input_ids": List(Value("int32"))}),
            gen_kwargs={"corpus": corpus, "part": part, "column": column, "tokenizer": tokenizer, "state": state},
        )
    except Exception as error:  # `datasets` wraps whatever the reader raised, and what `_sequences` did
        reason = error.__cause__ or error
        if isinstance(reason, InputError):
            raise reason from None
        raise InputError(f"{corpus.dataset} cannot be read: {first_line(reason)}") from error


def _sequences(
    corpus: CorpusArguments, part: str, column: str, tokenizer: PreTrainedTokenizerBase, state: str
) -> Iterator[dict[str, list[int]]]:
    """Packs the texts of one part; `state` says in what state the data is, and makes the cache notice changes."""
    stream, _ = _stream(corpus, part)
    length, separator, buffer, count = corpus.max_length - 2, tokenizer.sep_token_id, [], 0
    for rows in stream.select_columns(column).iter(batch_size=1000):
        texts = [text for text in rows[column] if text and not text.isspace()]
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []:
            buffer += [*ids, separator]
            while len(buffer) > length:
                yield {"input_ids": [tokenizer.cls_token_id, *buffer[:length], separator]}
                count += 1
                if count == corpus.max_sequences:
                    return
                # a text that ends where the sequence does has its separator already
                del buffer[: length + (buffer[length] == separator)]
    if count == 0:
        raise InputError(
            f"{corpus.dataset} ({part}) is shorter than one sequence of {corpus.max_length} tokens; give more text, or "
            "lower --max-length"
        )


def _text_column(corpus: CorpusArguments, stream: IterableDataset) -> str:
    """The column of text, found in the first row."""
    try:
        first: dict[str, Any] | None = next(iter(stream), None)
    except Exception as error:  # whatever the reader of the format raises
        raise InputError(f"{corpus.dataset} cannot be read: {first_line(error.__cause__ or error)}") from error
    if first is None:
        raise InputError(f"{corpus.dataset} has no rows, so there is nothing to train on")
    wanted = (corpus.text_column,) if corpus.text_column else ("text", "sentence")
    column = next((name for name in wanted if isinstance(first.get(name), str | None) and name in first), None)
    if column is None:
        raise InputError(
            f"{corpus.dataset} has no column {' or '.join(map(repr, wanted))} of text; name one with --text-column "
            f"(there are {', '.join(map(repr, first))})"
        )
    return column


def _stream(corpus: CorpusArguments, part: str) -> tuple[IterableDataset, str]:
    """The rows of one part, `"train"` or `"eval"`, read as they are asked for, and what identifies their state."""
    split = corpus.eval_split if part == "eval" else corpus.train_split or "train"
    with explain_hub_errors(f"corpus {corpus.dataset!r}", "a local folder or file"):
        if Path(corpus.dataset).exists():
            loader, files = _local_files(corpus, part)
            builder, split = load_dataset_builder(loader, data_files={"train": files}), "train"
        else:
            builder = load_dataset_builder(corpus.dataset, corpus.config)
        return builder.as_streaming_dataset(split=split), f"{builder.config_id} {builder.hash}"


def _local_files(corpus: CorpusArguments, part: str) -> tuple[str, list[str]]:
    """How to read one part of a file or folder, and its files."""
    path = Path(corpus.dataset)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _LOADERS)
    loaders = {_LOADERS.get(file.suffix) for file in files}
    if len(loaders) != 1 or None in loaders:
        endings = ", ".join(sorted({file.suffix for file in files})) or "none"
        raise InputError(
            f"{path} holds no corpus of one kind of file (endings found: {endings}); the readable ones are "
            f"{', '.join(_LOADERS)}"
        )
    wanted = corpus.eval_split if part == "eval" else corpus.train_split
    chosen = [file for file in files if (file.stem == wanted if wanted else file.stem != corpus.eval_split)]
    if not chosen:
        raise InputError(
            f"{path} has no file {wanted or 'beside ' + str(corpus.eval_split)!r} for the {part} split; there are "
            f"{', '.join(file.name for file in files)}"
        )
    return loaders.pop(), [str(file) for file in chosen]
