"""`tkd-hf augment`: more texts like those of a task, without labels."""

import time
from pathlib import Path

import torch

from ..data.augmentation import collect_words, replace_words, shuffle_pairs
from ..data.loading import DataArguments, load_split
from ..data.replacement_words import MaskedWords, NearestWords
from ..data.tasks import Task
from ..data.unlabelled import read_unlabelled
from ..errors import InputError
from ..files import atomic_write
from ..model_loading import load_encoder, load_masked_lm_if_trained, load_tokenizer
from ..soft_labels import teacher_revision
from .run_folder import RunFolder, StageRecord, fingerprint


def augment(
    data: DataArguments,
    output_dir: str | Path,
    mlm: str | None = None,
    neighbours: str | None = None,
    shuffle: bool = False,
    copies: int = 4,
    probability: float = 0.4,
    candidates: int = 15,
    words_from: str | None = None,
    seed: int = 42,
    batch_size: int = 32,
    overwrite: bool = False,
    resume: bool = False,
) -> StageRecord:
    """Makes new texts of the training split, for `distill(…, unlabelled=[output_dir])`.

    They are left in `train.parquet`, in the columns `text` and, for pairs, `text_pair`.

    Args:
        data: the task, or the data set.
        output_dir: folder for them.
        mlm: folder or Hub id of a masked language model, to replace words by what it proposes.
        neighbours: of any encoder, such as the teacher, to replace words by those of nearest embeddings instead.
        shuffle: put the texts of different pairs together instead.
        copies, probability, seed: as in `tkd_hf.data.augmentation`.
        candidates, batch_size: as in `tkd_hf.data.replacement_words`.
        words_from: file or Hub id of texts; only words that occur there are proposed.
        overwrite: delete what the folder holds.
        resume: take what the folder holds, if it was made like this.

    Returns:
        the record; its metrics are the number of `examples` of the training split, and of `new` ones that are not among
        them.

    Raises:
        InputError: for bad data, a folder that holds something else, a model that proposes no words, or if nothing new
            came out.
    """
    if sum(map(bool, (mlm, neighbours, shuffle))) != 1:
        raise InputError(
            f"choose one of --mlm, --neighbours and --shuffle-pairs (got mlm={mlm!r}, neighbours={neighbours!r} and "
            f"shuffle_pairs={shuffle})"
        )
    if words_from and shuffle:
        raise InputError(f"words_from={words_from!r} limits what a model proposes, and shuffling pairs uses none")
    examples, task = load_split(data, "train")
    if task.problem_type == "token_classification":
        raise InputError(
            f"{task.name} has lists of words in {task.text_columns[0]!r}, and only texts are augmented; name a column "
            "of texts with --text-column"
        )
    model = mlm or neighbours
    tokenizer = load_tokenizer(model) if model else None  # names a missing model before anything is hashed
    record = StageRecord(
        "augment",
        inputs={
            "task": task.name,
            "train": fingerprint(examples),
            "mlm": mlm,
            "neighbours": neighbours,
            "model_revision": teacher_revision(model) if model else None,
        },
        arguments={
            "shuffle_pairs": shuffle,
            "copies": copies,
            "probability": probability,
            "candidates": candidates,
            "words_from": words_from,
            "seed": seed,
            "max_length": data.max_length,
        },
    )
    folder = RunFolder(output_dir, record, overwrite, resume)
    if folder.done:
        return folder.record
    words = collect_words(read_unlabelled([words_from], task, data.data_dir)) if words_from else None
    started = time.perf_counter()
    if shuffle:
        new = shuffle_pairs(examples, copies, seed)
    else:
        if mlm:
            propose = MaskedWords(_load(mlm), tokenizer, candidates, words, batch_size, data.max_length)
        else:
            propose = NearestWords(load_encoder(neighbours), tokenizer, candidates, words)
        new = replace_words(examples, propose, copies, probability, seed)
    if len(new) == 0:
        raise InputError(f"no new text came of {len(examples)} examples; raise the copies or the probability")
    folder.start(since=started)
    with atomic_write(folder.path / f"{Task.train_split}.parquet") as file:
        new.to_parquet(file)
    return folder.finish({"examples": len(examples), "new": len(new)})


def _load(mlm: str):
    model = load_masked_lm_if_trained(mlm)
    if model is None:
        raise InputError(f"{mlm!r} is no trained masked language model; `tkd-hf pretrain` makes one")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
