"""Load a corpus for pre-training: raw text, read as a stream, packed into sequences of one length, and masked."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset_builder
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from ..core.errors import InputError, first_line
from .arguments import CorpusArguments
from .delimited import SEPARATORS, Layout, iterate_rows, scan
from .files import BUILDERS, SUFFIXES, check_misspelt_path, check_not_compressed, content_hash, literal_files
from .loading import explain_hub_errors


# Without a split for evaluation, this share of the sequences is held out, within these bounds.
_EVAL_SHARE, _MIN_EVAL_SEQUENCES, _MAX_EVAL_SEQUENCES = 0.01, 8, 1000


def load_corpus(corpus: CorpusArguments, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, Dataset]:
    """Load the sequences for training and those for evaluation.

    The texts are joined in order, with the tokenizer's separator between them, and cut into sequences `[CLS] … [SEP]`
    of exactly `max_length` tokens. The tokens after the last full sequence are dropped.

    The text is read as a stream, and the sequences are stored in the cache of `datasets` on disk. Memory therefore does
    not grow with the corpus, an epoch is shuffled as a whole, and a resumed run continues at the right sequence.

    Args:
        corpus: where the text comes from.
        tokenizer: a tokenizer with `[CLS]`, `[SEP]` and `[MASK]` tokens.

    Returns:
        Two data sets with the column `input_ids`.

    Raises:
        InputError: for a data set that cannot be read, is too short, or has no column of text, and for a tokenizer
            without one of the three special tokens.

    Example (`tokenizer`: that of a BERT-like encoder):

        train, evaluation = load_corpus(CorpusArguments("novels/", max_length=256), tokenizer)
    """
    for name in ("mask_token", "cls_token", "sep_token"):
        if getattr(tokenizer, name) is None:
            raise InputError(
                f"the tokenizer {tokenizer.name_or_path!r} has no {name}, but masked language modelling needs one; "
                "choose a BERT-like one with --tokenizer"
            )
    sequences = _load_sequences(corpus, "train", tokenizer)
    if corpus.eval_split:
        return sequences, _load_sequences(corpus, "eval", tokenizer)
    if len(sequences) < 2:
        raise InputError(
            f"{corpus.dataset} is one sequence of {corpus.max_length} tokens, so none is left to evaluate on; lower "
            "--max-length, or name a split with --eval-split"
        )
    count = min(max(int(_EVAL_SHARE * len(sequences)), _MIN_EVAL_SEQUENCES), _MAX_EVAL_SEQUENCES, len(sequences) // 2)
    # A fixed seed, so that runs with different training seeds are evaluated on the same sequences.
    split = sequences.train_test_split(test_size=count, seed=0)
    return split["train"], split["test"]


class MaskingCollator(DataCollatorForLanguageModeling):
    """Mask tokens for masked language modelling as `transformers` does, with a seed derived from the batch.

    Every epoch has new masks, because shuffling makes new batches. Yet a resumed run masks as the uninterrupted run
    would have, and every evaluation has the same masks. Neither holds with the global random generator: a data loader
    fetches batches ahead, so the state of the generator in a checkpoint is not that of the checkpoint's step.

    Returns:
        (from a call) `input_ids`, `attention_mask`, `labels` (-100 at tokens that are not predicted) and
        `prediction_mask` (true at tokens that are predicted), each of shape (batch, length).

    Example (`tokenizer`: with a mask token):

        collator = MaskingCollator(tokenizer, mlm_probability=0.15, seed=42)
    """

    def torch_call(self, examples: list[Any]) -> dict[str, torch.Tensor]:
        input_ids = _stack_input_ids(examples)
        content = hashlib.sha256(f"{self.seed} ".encode() + input_ids.numpy().tobytes())
        self.generator = torch.Generator().manual_seed(int.from_bytes(content.digest()[:7], "big"))
        is_special = torch.isin(input_ids, torch.tensor(self.tokenizer.all_special_ids))
        input_ids, labels = self.torch_mask_tokens(input_ids, special_tokens_mask=is_special)
        attention_mask = torch.ones_like(input_ids)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "prediction_mask": labels != -100,
        }


def stack_sequences(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Collate sequences without masking, for training on the teacher's features alone."""
    input_ids = _stack_input_ids(examples)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def corpus_fingerprint(sequences: Dataset) -> str:
    """Return a short hash of the sequences and their order."""
    digest = hashlib.sha256()
    for batch in sequences.with_format("numpy").iter(10_000):
        digest.update(batch["input_ids"].tobytes())
    return digest.hexdigest()[:16]


def _stack_input_ids(examples: list[dict]) -> torch.Tensor:
    return torch.tensor([example["input_ids"] for example in examples])


def _load_sequences(corpus: CorpusArguments, part: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Return the sequences of one part, `"train"` or `"eval"`, from the cache if they were packed before."""
    stream, state = _stream(corpus, part)
    column = _text_column(corpus, stream)
    try:
        return Dataset.from_generator(
            _pack,
            features=Features({"input_ids": List(Value("int32"))}),
            gen_kwargs={"corpus": corpus, "part": part, "column": column, "tokenizer": tokenizer, "state": state},
        )
    except Exception as error:  # `datasets` wraps errors of the reader and of `_pack`
        reason = error.__cause__ or error
        if isinstance(reason, InputError):
            raise reason from None
        raise InputError(f"{corpus.dataset} cannot be read: {first_line(reason)}") from error


def _pack(
    corpus: CorpusArguments, part: str, column: str, tokenizer: PreTrainedTokenizerBase, state: str
) -> Iterator[dict[str, list[int]]]:
    """Pack the texts of one part into sequences.

    `state` identifies the version of the data. `datasets` hashes the arguments, so a new version is packed again.
    """
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
                # If text and sequence end together, the separator of the sequence is also that of the text.
                del buffer[: length + (buffer[length] == separator)]
    if count == 0:
        raise InputError(
            f"{corpus.dataset} ({part}) is shorter than one sequence of {corpus.max_length} tokens; give more text, or "
            "lower --max-length"
        )


def _text_column(corpus: CorpusArguments, stream: IterableDataset) -> str:
    """Return the name of the text column, which must be in the first row."""
    try:
        first_row: dict[str, Any] | None = next(iter(stream), None)
    except Exception as error:  # the readers of the formats raise different errors
        raise InputError(f"{corpus.dataset} cannot be read: {first_line(error.__cause__ or error)}") from error
    if first_row is None:
        raise InputError(f"{corpus.dataset} has no rows, so there is nothing to train on")
    candidates = (corpus.text_column,) if corpus.text_column else ("text", "sentence")
    for name in candidates:
        if name in first_row and isinstance(first_row[name], str | None):
            return name
    raise InputError(
        f"{corpus.dataset} has no column {' or '.join(map(repr, candidates))} of text; name one with --text-column "
        f"(there are {', '.join(map(repr, first_row))})"
    )


def _stream(corpus: CorpusArguments, part: str) -> tuple[IterableDataset, str]:
    """Return a stream of the rows of one part, `"train"` or `"eval"`, and a string that identifies their version."""
    if Path(corpus.dataset).expanduser().exists():
        files = _local_files(corpus, part)
        state = hashlib.sha256(" ".join(map(content_hash, files)).encode()).hexdigest()
        return _local_stream(files), state
    check_misspelt_path(corpus.dataset)
    split = corpus.eval_split if part == "eval" else corpus.train_split or "train"
    with explain_hub_errors(f"corpus {corpus.dataset!r}", "a local folder or file"):
        builder = load_dataset_builder(corpus.dataset, corpus.config)
        return builder.as_streaming_dataset(split=split), f"{builder.config_id} {builder.hash}"


def _local_stream(files: list[Path]) -> IterableDataset:
    if files[0].suffix in SEPARATORS:
        layouts = [scan(file) for file in files]
        return IterableDataset.from_generator(_delimited_rows, gen_kwargs={"files": files, "layouts": layouts})
    try:
        return BUILDERS[files[0].suffix](data_files=literal_files(files)).as_streaming_dataset(split="train")
    except Exception as error:  # the readers of the formats raise different errors
        shown = ", ".join(map(str, files[:3])) + (", …" if len(files) > 3 else "")
        raise InputError(f"{shown} cannot be read: {first_line(error.__cause__ or error)}") from error


def _delimited_rows(files: list[Path], layouts: list[Layout]) -> Iterator[dict[str, Any]]:
    for file, layout in zip(files, layouts, strict=True):
        yield from iterate_rows(str(file), layout)


def _local_files(corpus: CorpusArguments, part: str) -> list[Path]:
    """Return the files of one part of a local file or folder; all are of one kind."""
    path = Path(corpus.dataset).expanduser()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    suffixes = {file.suffix for file in files}
    kinds = {BUILDERS.get(suffix, suffix) for suffix in suffixes}  # json and jsonl are of one kind
    if len(kinds) != 1 or not suffixes <= set(SUFFIXES):
        endings = ", ".join(sorted(suffixes)) or "none"
        raise InputError(
            f"{path} must hold files of one kind (endings found: {endings}); the readable ones are "
            f"{', '.join(SUFFIXES)}"
        )
    split = corpus.eval_split if part == "eval" else corpus.train_split
    if split:
        chosen = [file for file in files if file.stem == split]
    else:
        chosen = [file for file in files if file.stem != corpus.eval_split]
    if not chosen:
        missing = repr(split) if split else f"beside {corpus.eval_split!r}"
        raise InputError(
            f"{path} has no file {missing} for the {part} split; there are {', '.join(file.name for file in files)}"
        )
    for file in chosen:
        check_not_compressed(file)
    return chosen
