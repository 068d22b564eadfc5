"""`tkd-hf augment`: make more texts like those of a task, without labels."""

import time
from collections.abc import Callable, Collection

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..core.errors import InputError
from ..core.files import atomic_write
from ..core.options import accepts
from ..data.augmentation import WordSpan, collect_words, replace_words, shuffle_pairs
from ..data.loading import load_split
from ..data.tasks import Task
from ..data.unlabelled import read_unlabelled
from ..models.loading import load_encoder, load_masked_lm_if_trained, load_tokenizer
from ..records.inputs import data_fields, fingerprint, teacher_revision
from ..records.run_folder import RunFolder, StageRecord
from ..teachers.replacement_words import MaskedWords, NearestWords
from .options import AugmentOptions


@accepts(AugmentOptions)
def augment(options: AugmentOptions) -> StageRecord:
    """Make new texts from the training split, and save them for `distill(…, unlabelled=[output_dir])`.

    Use it if the training data are few and no other texts from the domain are at hand. Each copy of an example has some
    words replaced, so its label may no longer hold: the texts are saved without labels, and the teacher labels them.
    The gain depends on the task, and pairs of sentences can lose; compare the agreement on unseen texts
    with and without.

    The texts are saved in `train.parquet`, in the columns `text` and, for pairs, `text_pair`. Choose exactly one of
    `mlm`, `neighbours` and `shuffle`.

    Returns:
        the record. Its metrics are the number of `examples` in the training split and of `new` texts not among them.

    Raises:
        InputError: for bad data, a folder that holds another run, a model that proposes no words, or if no text is new.

    Example:

    ```python
    from tkd_hf import DataArguments, augment

    record = augment(DataArguments(task="sst2"), "runs/more", neighbours="textattack/bert-base-uncased-SST-2")
    print(record.metrics["new"])
    ```

    References:
        Jiao et al. 2020, TinyBERT, arXiv 1909.10351, algorithm 1.
    """
    data, words_from = options.data, options.words_from
    _check(options)
    examples, task = load_split(data, "train")
    if task.problem_type.per_token:
        raise InputError(
            f"{task.name} has lists of words in {task.text_columns[0]!r}, but only texts can be augmented; name a "
            "column of texts with --text-column"
        )
    model = options.mlm or options.neighbours
    tokenizer = load_tokenizer(model) if model else None  # fails early if the model does not exist
    folder = RunFolder(options.output_dir, _record(options, examples, task), options.overwrite, options.resume)
    if folder.done:
        return folder.record
    words = collect_words(read_unlabelled([words_from], task, data.data_dir)) if words_from else None
    started = time.perf_counter()
    if tokenizer is None:
        new = shuffle_pairs(examples, options.copies, options.seed)
    else:
        propose = _proposals(options, tokenizer, words)
        new = replace_words(examples, propose, options.copies, options.probability, options.seed)
    if len(new) == 0:
        raise InputError(f"no new text came out of {len(examples)} examples; raise --copies or --probability")
    folder.start(since=started)
    with atomic_write(folder.path / f"{Task.train_split}.parquet") as file:
        new.to_parquet(file)
    return folder.finish({"examples": len(examples), "new": len(new)})


def _check(options: AugmentOptions) -> None:
    """Raise an `InputError` for options that contradict each other, before anything is loaded."""
    mlm, neighbours, shuffle, words_from = options.mlm, options.neighbours, options.shuffle, options.words_from
    if sum(map(bool, (mlm, neighbours, shuffle))) != 1:
        raise InputError(
            f"choose one of --mlm, --neighbours and --shuffle-pairs (given: mlm={mlm!r}, neighbours={neighbours!r} and "
            f"shuffle_pairs={shuffle})"
        )
    if words_from and shuffle:
        raise InputError(
            f"words_from={words_from!r} limits the words that a model proposes; leave it out, since shuffling pairs "
            "uses no model"
        )


def _record(options: AugmentOptions, examples: Dataset, task: Task) -> StageRecord:
    model = options.mlm or options.neighbours
    return StageRecord(
        "augment",
        inputs={
            "task": task.name,
            "train": fingerprint(examples),
            "mlm": options.mlm,
            "neighbours": options.neighbours,
            "model_revision": teacher_revision(model) if model else None,
            "data": data_fields(options.data),
        },
        arguments={
            "shuffle_pairs": options.shuffle,
            "copies": options.copies,
            "probability": options.probability,
            "candidates": options.candidates,
            "words_from": options.words_from,
            "seed": options.seed,
            "max_length": options.data.max_length,
        },
    )


def _proposals(
    options: AugmentOptions, tokenizer: PreTrainedTokenizerBase, words: Collection[str] | None
) -> Callable[[list[WordSpan]], list[list[str]]]:
    """Return the function that proposes words: by a masked language model, or by the nearest embeddings."""
    if options.neighbours:
        return NearestWords(load_encoder(options.neighbours), tokenizer, options.candidates, words)
    assert options.mlm  # `_check` has made sure that one of them is given
    model = load_masked_lm_if_trained(options.mlm)
    if model is None:
        raise InputError(f"{options.mlm!r} is not a trained masked language model; `tkd-hf pretrain` makes one")
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]  # wrapped by transformers
    return MaskedWords(model, tokenizer, options.candidates, words, options.batch_size, options.data.max_length)
