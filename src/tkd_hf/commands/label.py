"""`tkd-hf label`: run the teacher once and store its soft labels."""

import os
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset

from ..core.errors import InputError, StopRequested
from ..core.files import check_output, file_state
from ..core.options import accepts
from ..data.loading import load_split
from ..data.tokenization import teacher_features, tokenize
from ..data.unlabelled import read_unlabelled
from ..models.loading import load_classifier_with_tokenizer, load_tokenizer
from ..records.inputs import teacher_revision
from ..records.recorded import recorded_data
from ..teachers.soft_labels import SoftLabels, default_path
from .options import LabelOptions


EXAMPLES_PER_SAVE = 1 << 16


@dataclass(frozen=True)
class LabelResult:
    """The file of soft labels, and how many of them were computed.

    Args:
        path: the file with the soft labels.
        revision: the teacher's revision, with which the file is marked.
        examples: number of examples in all splits and unlabelled texts.
        computed: number of distinct examples that the teacher was run on. The file already held the others.
    """

    path: str
    revision: str
    examples: int
    computed: int


@accepts(LabelOptions)
def label(options: LabelOptions) -> LabelResult:
    """Store the teacher's logits (its soft labels) for a task's examples in a file.

    Use it to pay for the teacher once and then distil several students from the same file. `distill` finds the default
    file by itself and computes missing soft labels, so calling `label` first is optional.

    Soft labels are keyed by the tokenized example and the teacher's revision. Examples that the file already holds are
    not computed again, and reordering or extending the data set is safe. Another `max_length` changes the tokens of
    long texts, so these are labelled again.

    Returns:
        the file, and how many examples the teacher was run on.

    Raises:
        InputError: for bad data, a teacher that cannot be loaded, or a file of soft labels that is damaged or belongs
            to another teacher.

    Example:

    ```python
    from tkd_hf import DataArguments, label

    result = label("textattack/bert-base-uncased-SST-2", DataArguments(task="sst2"))
    print(result.path, result.computed)
    ```
    """
    teacher, path = options.teacher, options.path
    data = options.data or recorded_data(teacher)
    tokenizer = load_tokenizer(teacher)  # fails early if the teacher does not exist
    revision = teacher_revision(teacher)
    path = Path(path or default_path(revision))
    _check_path(path, teacher, [teacher, data.dataset, data.data_dir, *options.unlabelled], options.overwrite)
    loaded = [load_split(data, split) for split in options.splits]
    task = loaded[0][1]
    texts = [_text_columns(rows) for rows, _ in loaded]
    if options.unlabelled:
        texts.append(read_unlabelled(list(options.unlabelled), task, data.data_dir))
    features = [tokenize(rows, tokenizer, data.max_length) for rows in texts]
    before = file_state(path)
    try:
        _, computed = complete_soft_labels(
            path, teacher, revision, features, options.batch_size, options.overwrite, task.problem_type
        )
    except StopRequested as request:
        request.resumable = file_state(path) != before  # then --overwrite would compute it again
        raise
    return LabelResult(str(path), revision, sum(map(len, features)), computed)


def complete_soft_labels(
    path: Path,
    teacher: str,
    revision: str,
    features: list[Dataset],
    batch_size: int = 128,
    overwrite: bool = False,
    problem_type: str | None = None,
    teacher_index: int = 0,
) -> tuple[SoftLabels, int]:
    """Run the teacher on the examples that a file of soft labels lacks, save the file, and return all soft labels.

    The file is saved after every `EXAMPLES_PER_SAVE` examples, so that an interrupted labelling continues from there.
    Other commands may add to the same file at the same time: what they have stored stays, and is not computed again.
    Only one such part is in memory at a time. Under `accelerate launch` each process runs the teacher on its share of
    the examples, and all processes receive all soft labels.

    Args:
        path: the file; it need not exist.
        teacher: folder or Hub id; loaded only if soft labels are missing.
        revision: the teacher's revision, with which the file is marked.
        features: tokenized data sets. If the teacher has another tokenizer than the student, its features are the
            columns that begin with `teacher_`.
        batch_size, overwrite: as in `label`.
        problem_type: the kind of classifier to load; see `tkd_hf.models.loading.load_classifier`.
        teacher_index: index of the teacher among several, from 0.

    Returns:
        the soft labels, and the number of distinct examples that the teacher was run on.

    Raises:
        InputError: if the file is damaged or belongs to another teacher, or if the teacher's files change meanwhile.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    replacing = file_state(path) if overwrite else None
    stored = SoftLabels.load(path, revision) if path.exists() and not overwrite else None
    (stored,) = broadcast_object_list([stored])  # the same in all processes, whatever another command adds now
    model, computed = None, 0
    for rows in features:
        for start in range(0, len(rows), EXAMPLES_PER_SAVE):
            part = rows.select(range(start, min(start + EXAMPLES_PER_SAVE, len(rows))))
            part = part if stored is None else part.select(stored.missing(part, teacher_index))
            if not len(part):
                continue
            if model is None:
                model, tokenizer = load_classifier_with_tokenizer(teacher, problem_type)
                model.to(state.device)
            part = teacher_features(part, teacher_index)
            own = range(state.process_index, len(part), state.num_processes)
            new = SoftLabels.compute(model, tokenizer, part.select(own), revision, batch_size) if own else None
            gathered = list(filter(None, gather_object([new])))
            additions = reduce(SoftLabels.merge, gathered)
            computed += len(additions.keys)
            _check_unchanged(teacher, revision)
            if state.is_main_process:
                additions = additions.merge_into(path, replacing)
                replacing = None
            (additions,) = broadcast_object_list([additions])
            stored = additions if stored is None else stored.merge(additions)
    state.wait_for_everyone()
    assert stored is not None
    return stored, computed


def _check_path(path: Path, teacher: str, reads: list[str | None], overwrite: bool) -> None:
    """Refuse a file that is an input, or that lies in the teacher's folder, because it would change the revision."""
    check_output(path, reads)
    if Path(teacher).is_dir() and os.path.realpath(path.parent) == os.path.realpath(teacher):
        raise InputError(
            f"{path} lies beside the weights of the teacher {teacher}, which identify the teacher; name a file in "
            "another folder"
        )
    if overwrite:
        SoftLabels.check_replaceable(path)


def _check_unchanged(teacher: str, revision: str) -> None:
    """Refuse to store the answers of a teacher whose files are others by now than those that the revision names."""
    if revision.startswith("files-") and (now := teacher_revision(teacher)) != revision:
        raise InputError(
            f"the files of the teacher {teacher} changed while it labelled (revision {revision} before, {now} now); "
            "nothing was stored of what it answered since; repeat the command"
        )


def _text_columns(rows: Dataset) -> Dataset:
    return rows.select_columns([name for name in ("text", "text_pair") if name in rows.column_names])
