"""`tkd-hf augment`: more texts like those of a task, without labels."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.augmentation import replace_words, shuffle_pairs, words_of
from ..data.loading import DataArguments, load_split
from ..data.unlabelled import read_unlabelled
from ..errors import InputError, first_line
from .training import find_masked_lm, load_tokenizer


_WRITERS = {".parquet": "to_parquet", ".json": "to_json", ".jsonl": "to_json"}


@dataclass(frozen=True)
class AugmentResult:
    """What augmentation did.

    Args:
        path: the file with the new texts, in the columns `text` and, for pairs, `text_pair`.
        examples: of the training split.
        new: examples that were made and are not among them.
    """

    path: str
    examples: int
    new: int


def augment(
    data: DataArguments,
    output_file: str | Path,
    mlm: str | None = None,
    shuffle: bool = False,
    copies: int = 4,
    probability: float = 0.4,
    candidates: int = 15,
    words_from: str | None = None,
    seed: int = 42,
    batch_size: int = 32,
    overwrite: bool = False,
) -> AugmentResult:
    """Makes new texts of the training split, for `distill(…, unlabelled=[output_file])`.

    Args:
        data: the task, or the data set.
        output_file: parquet, json or jsonl.
        mlm: folder or Hub id of a masked language model, to replace words by what it proposes.
        shuffle: put the texts of different pairs together instead.
        copies, probability, candidates, seed, batch_size: as in `tkd_hf.data.augmentation`.
        words_from: file or Hub id of texts; only words that occur there are proposed.
        overwrite: replace the file if it exists.

    Raises:
        InputError: for bad data, a file that exists, a model that proposes no words, or if nothing new came out.
    """
    path = Path(output_file)
    _check(path, mlm, shuffle, words_from, overwrite)
    examples, task = load_split(data, "train")
    if shuffle:
        new = shuffle_pairs(examples, copies, seed)
    else:
        words = words_of(read_unlabelled([words_from], task)) if words_from else None
        tokenizer, model = load_tokenizer(mlm), find_masked_lm(mlm)
        if model is None:
            raise InputError(f"{mlm!r} is no trained masked language model; `tkd-hf pretrain` makes one")
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        new = replace_words(
            examples, model, tokenizer, copies, probability, candidates, words, seed, batch_size, data.max_length
        )
    if len(new) == 0:
        raise InputError(f"no new text came of {len(examples)} examples; raise the copies or the probability")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        getattr(new, _WRITERS[path.suffix])(str(path))
    except OSError as error:
        raise InputError(f"cannot write {path}: {first_line(error)}") from error
    return AugmentResult(str(path), len(examples), len(new))


def _check(path: Path, mlm: str | None, shuffle: bool, words_from: str | None, overwrite: bool):
    if bool(mlm) == shuffle:
        raise InputError(f"choose one of --mlm and --shuffle-pairs (got mlm={mlm!r} and shuffle_pairs={shuffle})")
    if words_from and shuffle:
        raise InputError(f"words_from={words_from!r} limits what a model proposes, and shuffling pairs uses none")
    if path.suffix not in _WRITERS:
        raise InputError(f"{path} has the ending {path.suffix!r}; the writable ones are {', '.join(_WRITERS)}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; add --overwrite to replace it, or name another file")
