"""`tkd-hf distill`: a student from a teacher."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, set_seed

from ..adapters import LoraArguments, add_adapters, finish_adapters
from ..data.features import TEACHER_LOGITS, tokenize
from ..data.loading import DataArguments, load_splits
from ..data.tasks import Task
from ..data.unlabelled import drop_known, join, read_unlabelled
from ..errors import InputError
from ..evaluation.metrics import compute_agreement_for, compute_metrics_for, decide
from ..labels import label_names
from ..objectives import OBJECTIVES
from ..objectives.combined import CombinedObjective
from ..soft_labels import default_path, teacher_revision
from ..student import classifier_from_base, student_from_teacher
from ..trainer import DistillationTrainer
from ..training_args import DistillationTrainingArguments
from .label import complete
from .run_folder import RunFolder, StageRecord, fingerprint
from .training import (
    find_classifier,
    load_classifier,
    load_config,
    load_encoder,
    load_for_training,
    load_tokenizer,
    train_into,
    training_arguments,
)


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudentArguments:
    """The student's shape, or where it comes from.

    Args:
        layers: number of layers, taken evenly from the teacher, or the teacher's layers by index (from 0).
        heads: attention heads a layer; by default the teacher's.
        intermediate_size: width of the feed-forward layers; by default the teacher's.
        student: folder or Hub id of a student to start from instead, perhaps with another tokenizer: a classifier, or a
            pre-trained encoder, which gets one.

    Raises:
        InputError: for a shape and a student.
    """

    layers: int | tuple[int, ...] | None = None
    heads: int | None = None
    intermediate_size: int | None = None
    student: str | None = None

    def __post_init__(self):
        shape = {"layers": self.layers, "heads": self.heads, "intermediate_size": self.intermediate_size}
        given = {name: value for name, value in shape.items() if value is not None}
        if self.student and given:
            raise InputError(
                f"the student {self.student!r} has a shape already, but {given} are to be cut out of the teacher; "
                "give only one of the two"
            )


def distill(
    teacher: str,
    data: DataArguments,
    args: DistillationTrainingArguments,
    student: StudentArguments = StudentArguments(),
    soft_labels: str | Path | None = None,
    live: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    unlabelled: Sequence[str] = (),
    lora: LoraArguments | None = None,
) -> StageRecord:
    """Distils a student and leaves it in `args.output_dir`, ready to load.

    Training data without labels will do: the student then learns from the teacher's answers alone. Where the evaluation
    split has none either, it is measured by its agreement with the teacher (with soft labels), and by the loss.

    Args:
        teacher: folder or Hub id of a sequence classifier.
        data: the task, or the data set.
        args: what to learn from and how.
        student: the student's shape.
        soft_labels: file of soft labels; by default the one for this teacher in the Hugging Face cache. What it lacks
            is computed first.
        live: run the teacher on each batch instead; always so where an objective reads more than its logits.
        overwrite: delete the run that the folder holds.
        resume: go on from the last checkpoint of the run that the folder holds; a finished run is returned as it is.
        unlabelled: files or Hub ids of more texts to learn from, by the teacher's answers alone; see
            `tkd_hf.data.unlabelled`. What the evaluation split holds is left out.
        lora: train LoRA adapters on the frozen student, and merge them; `LORA_LEARNING_RATE` suits them. With
            `adapter_only`, several tasks may share the student that `student.student` names: the adapter holds the
            task's head.

    Returns:
        the record of the run, with the student's metrics on the evaluation split.

    Raises:
        InputError: for bad data, models that cannot be loaded, labels that do not match, soft labels that are damaged
            or another teacher's, a folder that holds another run, or an adapter for a base without a name.
    """
    if lora and lora.adapter_only and not student.student:
        raise InputError("an adapter alone needs a base to be loaded on: name it with --student, or have it merged")
    live = live or bool(CombinedObjective(args, OBJECTIVES).features)
    train, evaluation, task = load_splits(data, load_config(teacher))
    if "label" not in train.column_names:
        args = _without_labels(args, task)
    extra = drop_known(read_unlabelled(unlabelled, task), train, evaluation) if unlabelled else None
    tokenizer = load_tokenizer(student.student or teacher)
    teacher_tokenizer = load_tokenizer(teacher)
    revision = teacher_revision(teacher)
    record = StageRecord(
        "distill",
        inputs={
            "teacher": teacher,
            "teacher_revision": revision,
            **({"student_revision": teacher_revision(student.student)} if student.student else {}),
            "task": task.name,
            "train": fingerprint(train),
            "eval": fingerprint(evaluation),
            **({"unlabelled": fingerprint(extra)} if extra else {}),
        },
        arguments={
            "max_length": data.max_length,
            "live": live,
            **vars(student),
            **training_arguments(args),
            **({"lora": asdict(lora)} if lora else {}),
        },
    )
    folder = RunFolder(args.output_dir, record, overwrite, resume)
    if folder.done:
        return folder.record

    set_seed(args.seed)  # before what the teacher cannot give is initialised
    if lora and lora.adapter_only:
        model = load_for_training(student.student, task)  # any encoder: the head is the adapter's own
    else:
        model = _student(teacher, student, task.label_names)
    splits = (join(train, extra) if extra else train, evaluation)
    rows = [tokenize(split, tokenizer, data.max_length, teacher_tokenizer) for split in splits]
    metrics = compute_metrics_for(task.metrics, task.problem_type)
    if not live:
        cache, _ = complete(Path(soft_labels or default_path(revision)), teacher, revision, rows)
        rows = [cache.attach(features, task.label_names) for features in rows]
        if "label" not in evaluation.column_names:
            rows[1] = _answered_by_teacher(rows[1], task.problem_type)
            metrics = compute_agreement_for(task.problem_type)
    trainer = DistillationTrainer(
        model=add_adapters(model, lora) if lora else model,
        args=args,
        teacher_model=load_classifier(teacher) if live else None,
        teacher_processing_class=teacher_tokenizer,
        train_dataset=rows[0],
        eval_dataset=rows[1],
        processing_class=tokenizer,
        compute_metrics=metrics,
    )
    return train_into(folder, trainer, partial(finish_adapters, base=model, lora=lora) if lora else None)


def _without_labels(args: DistillationTrainingArguments, task: Task) -> DistillationTrainingArguments:
    """Instead of the default objectives, those that need no labels; what else was chosen must need none."""
    if args.objectives == {"logits": 0.9, "hard": 0.1}:
        args = copy.copy(args)  # the user's own stays as it is
        args.objectives = {"logits": 1.0}
    if CombinedObjective(args, OBJECTIVES).needs("labels"):
        raise InputError(
            f"objectives={args.objectives} need labels, and the training data of {task.name} has no column "
            f'{task.label_column!r}; without labels, distil with objectives={{"logits": 1.0}}'
        )
    logger.info("no column %r in the training data: learning from the teacher alone", task.label_column)
    return args


def _answered_by_teacher(rows: Dataset, problem_type: str) -> Dataset:
    """Rows whose labels are what the teacher answers."""
    answers = decide(np.array(rows[TEACHER_LOGITS]), problem_type)
    return rows.add_column("label", answers.tolist())


def _student(teacher: str, student: StudentArguments, names: tuple[str, ...]) -> PreTrainedModel:
    if student.student:
        model = find_classifier(student.student)
        if model is None:  # a pre-trained encoder
            model = classifier_from_base(load_encoder(student.student), load_classifier(teacher))
        # its classes must stand in the order of the data's codes
        return model if label_names(model.config) == names else student_from_teacher(model, label_names=list(names))
    shape = {"num_attention_heads": student.heads, "intermediate_size": student.intermediate_size}
    layers = student.layers
    chosen = {"num_hidden_layers": layers} if isinstance(layers, int) or layers is None else {"layers": list(layers)}
    return student_from_teacher(load_classifier(teacher), label_names=list(names) or None, **chosen, **shape)
