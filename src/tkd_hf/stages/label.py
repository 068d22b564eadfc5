"""`tkd-hf label`: run the teacher once and keep its soft labels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.features import tokenize
from ..data.loading import DataArguments, load_split
from ..soft_labels import SoftLabels, default_path, teacher_revision
from .training import load_classifier, load_tokenizer


@dataclass(frozen=True)
class LabelResult:
    """What labelling did.

    Args:
        path: the file with the soft labels.
        revision: the teacher's.
        examples: of all splits.
        computed: distinct examples that the teacher was run on; the rest was there already.
    """

    path: str
    revision: str
    examples: int
    computed: int


def label(
    teacher: str,
    data: DataArguments,
    splits: tuple[str, ...] = ("train", "eval"),
    path: str | Path | None = None,
    batch_size: int = 128,
    overwrite: bool = False,
) -> LabelResult:
    """Stores the teacher's logits for a task, keyed by content; what is there already is not computed again.

    Args:
        teacher: folder or Hub id of a sequence classifier.
        data: the task, or the data set.
        splits: which of `"train"` and `"eval"`.
        path: file to keep them in; by default one for this revision of the teacher in the Hugging Face cache.
        batch_size: examples at a time.
        overwrite: compute all of them anew.

    Raises:
        InputError: for bad data, a teacher that cannot be loaded, or a file of soft labels that is damaged or another
            teacher's.
    """
    tokenizer = load_tokenizer(teacher)  # names a missing teacher before anything is hashed
    revision = teacher_revision(teacher)
    path = Path(path or default_path(revision))
    examples = {split: load_split(data, split)[0] for split in splits}
    known = SoftLabels.load(path, revision) if path.exists() and not overwrite else None
    model, computed = None, 0
    for rows in examples.values():
        features = _teacher_features(rows, tokenizer, data.max_length)
        wanted = features if known is None else features.select(known.missing(features))
        if len(wanted) == 0:
            continue
        model = model or load_classifier(teacher).to("cuda" if torch.cuda.is_available() else "cpu")
        new = SoftLabels.compute(model, tokenizer, wanted, revision, batch_size)
        computed += len(new.keys)
        known = new if known is None else known.merge(new)
        known.save(path)
    return LabelResult(str(path), revision, sum(map(len, examples.values())), computed)


def _teacher_features(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    return tokenize(rows.remove_columns([c for c in rows.column_names if c == "label"]), tokenizer, max_length)
