"""`tkd-hf distill`: train a student on the predictions of a teacher, or of several."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..core.errors import InputError
from ..core.names import label_names
from ..core.options import accepts
from ..data.arguments import DataArguments
from ..data.loading import load_splits
from ..data.tasks import Task
from ..data.tokenization import check_max_length, to_tuple, tokenize
from ..data.unlabelled import append_unlabelled, drop_duplicates, read_unlabelled
from ..evaluation.metrics import compute_metrics_for
from ..models.arguments import LoraArguments, StudentArguments, dropout_fields, shape_arguments
from ..models.loading import (
    load_classifier,
    load_classifier_if_trained,
    load_config,
    load_encoder,
    load_for_training,
    load_tokenizer,
)
from ..models.lora import add_adapters, finish_adapters
from ..models.student import classifier_from_base, student_from_teacher
from ..objectives.arguments import DEFAULT_OBJECTIVES, DistillationTrainingArguments
from ..records.inputs import data_inputs, teacher_revision, training_arguments
from ..records.recorded import recorded_data
from ..records.run_folder import RunFolder, StageRecord
from ..teachers.soft_labels import attach_mean, default_path
from ..teachers.teacher import normalize_weights
from ..training.combined import CombinedObjective
from ..training.quantization_aware import QuantizationAwareCallback
from ..training.stage import train_into
from ..training.trainer import DistillationTrainer
from .label import complete_soft_labels
from .options import DistillOptions


logger = logging.getLogger(__name__)

# Arguments of `QuantizationAwareCallback` by name of the scheme. ONNX's int8 here uses 7 bits (up to 64), so that sums
# do not overflow on processors without VNNI.
QUANTIZATION_AWARE: dict[str, dict[str, Any]] = {
    "weights": {"top": 127, "activations": None},
    "dynamic": {"top": 64, "activations": "dynamic"},
    "dynamic-int4-embeddings": {"top": 64, "activations": "dynamic", "int4_embeddings": True},
    "static": {"top": 127, "activations": "static"},
}


@accepts(DistillOptions)
def distill(options: DistillOptions) -> StageRecord:
    """Distil a teacher into a smaller student, and save the student in `args.output_dir`.

    By default the student is cut out of the teacher: it keeps some of the layers, copies their weights, and then learns
    to give the teacher's predictions. The saved folder loads with `AutoModelForSequenceClassification` or
    `AutoModelForTokenClassification`, and holds the tokenizer, the record (`tkd_run.json`) and a model card.

    The default objectives are the teacher's logits and the labels; both work from stored soft labels and are fast. If
    the teacher can run along, distilling its features first (`hidden`, `relations`) in a run of its own and the logits
    in a second one brings a small student closer to it on small data sets. Texts as they occur in production can be
    added as `unlabelled`, since the student learns them from the teacher's logits. Data without a label column works as
    well: the student then learns from the teacher alone. If the evaluation split has no labels either, the student is
    measured by its agreement with the teacher and by the loss.

    A student agrees poorly if it trained too briefly or on texts unlike those it meets later. Check its agreement on
    unseen texts with `evaluate` before use.

    Returns:
        the record of the run, with the student's metrics on the evaluation split.

    Raises:
        InputError: for bad data, models that cannot be loaded, labels that do not match, soft labels that are damaged
            or belong to another teacher, a folder that holds another run, or `adapter_only` without an existing
            student.
        TrainingStopped: after SIGINT, SIGTERM or SIGHUP, once a checkpoint has been written.

    Example:

    ```python
    from tkd_hf import DataArguments, DistillationTrainingArguments, StudentArguments, distill

    record = distill(
        "textattack/bert-base-uncased-SST-2",
        DataArguments(task="sst2"),
        DistillationTrainingArguments("runs/student", learning_rate=2e-4),
        StudentArguments(layers=3),
    )
    print(record.metrics["accuracy"], record.metrics["agreement"])
    ```

    References:
        Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv 1503.02531; the recipe is that of
        TKD-NLP, arXiv 2405.11704.
    """
    args, student, lora = options.args, options.student, options.lora
    teachers, live = to_tuple(options.teacher), options.live or bool(CombinedObjective(args).features)
    _check(options, teachers)
    data = options.data or recorded_data(teachers)
    train, evaluation, task = load_splits(data, load_config(teachers[0]))
    if "label" not in train.column_names:
        args = arguments_without_labels(args, task)
    extra = new_texts(options.unlabelled, data, train, evaluation, task)
    tokenizer = load_tokenizer(student.student or teachers[0])
    check_max_length(tokenizer, data.max_length)
    revisions = [teacher_revision(name) for name in teachers]
    record = _record(options, args, live, list(zip(teachers, revisions, strict=True)), data.max_length)
    record.inputs |= data_inputs(data, train, evaluation, task, extra)
    folder = RunFolder(
        args.output_dir,
        record,
        options.overwrite,
        options.resume,
        args,
        reads=[*options.unlabelled, options.soft_labels if options.overwrite else None],
    )
    if folder.done:
        return folder.record

    set_seed(args.seed)  # before weights that the teacher does not have are initialised
    model = make_student(teachers[0], student, task, lora)
    report = getattr(model, "init_report", None)
    if report and not student.student:  # an existing student's layers do not come from this teacher
        record.details["teacher_layers"] = list(report.layers)
    trainer = distillation_trainer(
        add_adapters(model, lora) if lora else model,
        tokenizer,
        list(zip(teachers, revisions, strict=True)),
        (append_unlabelled(train, extra) if extra else train, evaluation),
        task,
        args,
        max_length=data.max_length,
        soft_labels=options.soft_labels,
        live=live,
        teacher_weights=options.teacher_weights,
    )
    if options.quantization_aware:
        scheme = QUANTIZATION_AWARE[options.quantization_aware]
        trainer.add_callback(QuantizationAwareCallback(trainer, **scheme))
    return train_into(folder, trainer, partial(finish_adapters, base=model, lora=lora) if lora else None)


def new_texts(
    sources: Sequence[str], data: DataArguments, train: Dataset, evaluation: Dataset, task: Task
) -> Dataset | None:
    """Return the unlabelled texts that neither split has; `None` if no source is given."""
    if not sources:
        return None
    return drop_duplicates(read_unlabelled(sources, task, data.data_dir), train, evaluation)


def _record(
    options: DistillOptions,
    args: DistillationTrainingArguments,
    live: bool,
    teachers: Sequence[tuple[str, str]],
    max_length: int,
) -> StageRecord:
    """Return the record of a run, to which the data is still to be added.

    Args:
        options: the options of the command.
        args: the training arguments, with other objectives than in `options` if the data has no labels.
        live: whether the teachers run along.
        teachers: folder or Hub id and revision of each teacher.
        max_length: number of tokens to which examples are truncated.
    """
    names, revisions = [name for name, _ in teachers], [revision for _, revision in teachers]
    several = len(teachers) > 1
    student = options.student
    inputs = {"teacher": names if several else names[0], "teacher_revision": revisions if several else revisions[0]}
    if student.student:
        inputs["student_revision"] = teacher_revision(student.student)
    arguments = {"max_length": max_length, "live": live, **vars(student), **training_arguments(args)}
    if options.lora:
        arguments["lora"] = asdict(options.lora)
    if options.quantization_aware:
        arguments["quantization_aware"] = options.quantization_aware
    if several:
        arguments["teacher_weights"] = normalize_weights(options.teacher_weights, len(teachers))
    return StageRecord("distill", inputs, arguments)


def make_student(
    teacher: str, student: StudentArguments, task: Task, lora: LoraArguments | None = None
) -> PreTrainedModel:
    """Cut a student out of the teacher, or load one; its labels are in the order of the data.

    Args:
        teacher: folder or Hub id.
        student: the shape, or an existing student: a classifier, or an encoder, which gets a copy of the teacher's
            classifier if the widths match and a new one otherwise.
        task: the task of the data.
        lora: with `adapter_only`, the student is only a base; the adapter holds the classifier.
    """
    names = task.label_names
    if student.student and lora and lora.adapter_only:
        return load_for_training(student.student, task)
    if student.student:
        model = load_classifier_if_trained(student.student, task.problem_type)
        if model is None:
            base, head = load_encoder(student.student), load_classifier(teacher, task.problem_type)
            model = classifier_from_base(base, head)
        return model if label_names(model.config) == names else student_from_teacher(model, label_names=list(names))
    model = load_classifier(teacher, task.problem_type)
    shape = shape_arguments(student.layers, student.heads, student.intermediate_size)
    return student_from_teacher(
        model, label_names=list(names) or None, **shape, **dropout_fields(student.dropout or 0.0)
    )


def distillation_trainer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    teachers: Sequence[tuple[str, str]],
    splits: tuple[Dataset, Dataset],
    task: Task,
    args: DistillationTrainingArguments,
    *,
    max_length: int,
    soft_labels: str | Path | None = None,
    live: bool = False,
    teacher_weights: Sequence[float] | None = None,
) -> DistillationTrainer:
    """Return a trainer for a student on a task's data, with the teachers' soft labels attached or the teachers live.

    Args:
        model, tokenizer: the student and its tokenizer.
        teachers: folder or Hub id and revision of each teacher.
        splits: examples to train on and to evaluate on.
        task: the task of the examples.
        args: the training arguments.
        max_length: number of tokens to which examples are truncated.
        soft_labels, live, teacher_weights: as in `distill`.
    """
    tokenizers = [load_tokenizer(name) for name, _ in teachers]
    rows = [tokenize(split, tokenizer, max_length, tokenizers) for split in splits]
    metrics = compute_metrics_for(task.metrics, task.problem_type, task.label_names)
    if not live:
        caches = [
            complete_soft_labels(
                Path(soft_labels or default_path(revision)),
                name,
                revision,
                rows,
                problem_type=task.problem_type,
                teacher_index=index,
            )[0]
            for index, (name, revision) in enumerate(teachers)
        ]
        rows = [attach_mean(split, caches, teacher_weights, task.label_names) for split in rows]
    return DistillationTrainer(
        model=model,
        args=args,
        teacher_model=[load_classifier(name, task.problem_type) for name, _ in teachers] if live else None,
        teacher_processing_class=tokenizers,
        teacher_weights=teacher_weights,
        train_dataset=rows[0],
        eval_dataset=rows[1],
        processing_class=tokenizer,
        compute_metrics=metrics,
    )


def _check(options: DistillOptions, teachers: Sequence[str]) -> None:
    """Refuse options that contradict each other, before anything is loaded."""
    scheme, lora, soft_labels = options.quantization_aware, options.lora, options.soft_labels
    if scheme not in (None, *QUANTIZATION_AWARE):
        raise InputError(f"unknown quantization_aware={scheme!r}; choose one of {', '.join(QUANTIZATION_AWARE)}")
    if scheme and lora:
        raise InputError("quantization_aware rounds the weights that lora keeps frozen; choose one of the two")
    normalize_weights(options.teacher_weights, len(teachers))
    if soft_labels and len(teachers) > 1:
        raise InputError(
            f"{soft_labels} is one file of soft labels, but there are {len(teachers)} teachers; leave it out, since "
            "each teacher has its own file in the cache"
        )
    if lora and lora.adapter_only and not options.student.student:
        raise InputError(
            "adapter_only needs a base model to load the adapter on; name it with --student, or leave out adapter_only"
        )


def arguments_without_labels(args: DistillationTrainingArguments, task: Task) -> DistillationTrainingArguments:
    """Replace the default objectives by the teacher's logits alone; refuse objectives that need labels."""
    if args.objectives == DEFAULT_OBJECTIVES:
        args = copy.copy(args)  # the caller's arguments stay unchanged
        args.objectives = {"logits": 1.0}
    if CombinedObjective(args).needs("labels"):
        raise InputError(
            f"objectives={args.objectives} need labels, but the training data of {task.name} has no column "
            f'{task.label_column!r}; to distil without labels, choose objectives={{"logits": 1.0}}'
        )
    logger.info("no column %r in the training data: learning from the teacher alone", task.label_column)
    return args
