"""`tkd-hf label`: run the teacher once and store its soft labels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from ..core.options import accepts
from ..data.loading import load_split
from ..data.tokenization import teacher_features, tokenize
from ..data.unlabelled import read_unlabelled
from ..models.loading import load_classifier_with_tokenizer, load_tokenizer
from ..teachers.soft_labels import SoftLabels, default_path, teacher_revision
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
    teacher, data, path = options.teacher, options.data, options.path
    tokenizer = load_tokenizer(teacher)  # fails early if the teacher does not exist
    revision = teacher_revision(teacher)
    path = Path(path or default_path(revision))
    loaded = [load_split(data, split) for split in options.splits]
    task = loaded[0][1]
    texts = [_text_columns(rows) for rows, _ in loaded]
    if options.unlabelled:
        texts.append(read_unlabelled(options.unlabelled, task, data.data_dir))
    features = [tokenize(rows, tokenizer, data.max_length) for rows in texts]
    _, computed = complete_soft_labels(
        path, teacher, revision, features, options.batch_size, options.overwrite, task.problem_type
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
    teacher_index: int = 0,
) -> tuple[SoftLabels, int]:
    """Run the teacher on the examples that a file of soft labels lacks, save the file, and return all soft labels.

    The file is saved after every `EXAMPLES_PER_SAVE` examples, so that an interrupted labelling continues from there.
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
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    stored = SoftLabels.load(path, revision) if path.exists() and not overwrite else None
    state.wait_for_everyone()  # no process writes before all have read
    model, computed = None, 0
    for rows in features:
        missing = rows if stored is None else rows.select(stored.missing(rows, teacher_index))
        for start in range(0, len(missing), EXAMPLES_PER_SAVE):
            if model is None:
                model, tokenizer = load_classifier_with_tokenizer(teacher, problem_type)
                model.to(state.device)
            end = min(start + EXAMPLES_PER_SAVE, len(missing))
            part = teacher_features(missing.select(range(start, end)), teacher_index)
            own = range(state.process_index, len(part), state.num_processes)
            new = SoftLabels.compute(model, tokenizer, part.select(own), revision, batch_size) if own else None
            count_before = 0 if stored is None else len(stored.keys)
            for soft_labels in filter(None, gather_object([new])):
                stored = soft_labels if stored is None else stored.merge(soft_labels)
            computed += len(stored.keys) - count_before
            if state.is_main_process:
                stored.save(path)
    state.wait_for_everyone()
    return stored, computed


def _text_columns(rows: Dataset) -> Dataset:
    return rows.select_columns([name for name in ("text", "text_pair") if name in rows.column_names])
