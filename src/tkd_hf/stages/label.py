"""`tkd-hf label`: run the teacher once and keep its soft labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from ..data.features import teacher_features, tokenize
from ..data.loading import DataArguments, load_split
from ..data.unlabelled import read_unlabelled
from ..model_loading import load_classifier, load_tokenizer
from ..soft_labels import SoftLabels, default_path, teacher_revision


EXAMPLES_PER_SAVE = 1 << 16  # examples between two saves


@dataclass(frozen=True)
class LabelResult:
    """What labelling did.

    Args:
        path: the file with the soft labels.
        revision: the teacher's.
        examples: of all splits, and those without labels.
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
    unlabelled: Sequence[str] = (),
) -> LabelResult:
    """Stores the teacher's logits for a task, keyed by content; what is there already is not computed again.

    Args:
        teacher: folder or Hub id of a classifier of texts, or of tokens.
        data: the task, or the data set.
        splits: which of `"train"` and `"eval"`.
        path: file to keep them in; by default one for this revision of the teacher in the Hugging Face cache.
        batch_size: examples at a time; of short ones more, as in `SoftLabels.compute`.
        overwrite: compute all of them anew.
        unlabelled: files or Hub ids of more texts; see `tkd_hf.data.unlabelled`.

    Raises:
        InputError: for bad data, a teacher that cannot be loaded, or a file of soft labels that is damaged or another
            teacher's.
    """
    tokenizer = load_tokenizer(teacher)  # names a missing teacher before anything is hashed
    revision = teacher_revision(teacher)
    path = Path(path or default_path(revision))
    loaded = [load_split(data, split) for split in splits]
    texts = [_texts(rows) for rows, _ in loaded]
    if unlabelled:
        texts.append(read_unlabelled(unlabelled, loaded[0][1], data.data_dir))
    features = [tokenize(rows, tokenizer, data.max_length) for rows in texts]
    _, computed = complete_soft_labels(
        path, teacher, revision, features, batch_size, overwrite, loaded[0][1].problem_type
    )
    return LabelResult(str(path), revision, sum(map(len, features)), computed)


def complete_soft_labels(
    path: Path,
    teacher: str,
    revision: str,
    features: list[Dataset],
    batch_size: int = 128,
    overwrite: bool = False,
    problem_type: str | None = None,
    place: int = 0,
) -> tuple[SoftLabels, int]:
    """The soft labels in a file, after running the teacher on the examples that they lack.

    They are saved after every `EXAMPLES_PER_SAVE` examples, so that an interrupted labelling goes on from there;
    examples stay on
    disk meanwhile. Under `accelerate launch` each process runs the teacher on its share, and all get the whole.

    Args:
        path: the file; it need not exist.
        teacher, revision: the teacher, loaded only if anything is missing, and what its soft labels are marked with.
        features: tokenised rows, with the teacher's features under `teacher_` where its tokenizer is another.
        batch_size, overwrite: as in `label`.
        problem_type: what the teacher is to answer; see `load_classifier`.
        place: of the teacher among several, from 0.

    Returns:
        the soft labels, and on how many distinct examples the teacher was run.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    known = SoftLabels.load(path, revision) if path.exists() and not overwrite else None
    state.wait_for_everyone()  # nobody writes before all have read
    model, computed = None, 0
    for rows in features:
        wanted = rows if known is None else rows.select(known.missing(rows, place))
        for start in range(0, len(wanted), EXAMPLES_PER_SAVE):
            if model is None:
                model, tokenizer = load_classifier(teacher, problem_type), load_tokenizer(teacher)
                model.to(state.device)
            part = teacher_features(wanted.select(range(start, min(start + EXAMPLES_PER_SAVE, len(wanted)))), place)
            own = range(state.process_index, len(part), state.num_processes)
            new = SoftLabels.compute(model, tokenizer, part.select(own), revision, batch_size) if own else None
            before = 0 if known is None else len(known.keys)
            for one in filter(None, gather_object([new])):
                known = one if known is None else known.merge(one)
            computed += len(known.keys) - before
            if state.is_main_process:
                known.save(path)
    state.wait_for_everyone()
    return known, computed


def _texts(rows: Dataset) -> Dataset:
    return rows.select_columns([name for name in ("text", "text_pair") if name in rows.column_names])
