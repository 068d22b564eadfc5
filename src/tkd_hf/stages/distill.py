"""`tkd-hf distill`: a student from a teacher, or from several."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..adapters import LoraArguments, add_adapters, finish_adapters
from ..data.features import to_tuple, tokenize
from ..data.loading import DataArguments, load_splits
from ..data.tasks import Task
from ..data.unlabelled import append_unlabelled, drop_duplicates, read_unlabelled
from ..errors import InputError
from ..evaluation.metrics import compute_metrics_for
from ..model_loading import load_classifier, load_config, load_tokenizer
from ..objectives.combined import CombinedObjective
from ..quantization.aware import QuantizationAwareCallback
from ..soft_labels import attach_mean, default_path, teacher_revision
from ..teacher import normalize_weights
from ..trainer import DistillationTrainer
from ..training_args import DEFAULT_OBJECTIVES, DistillationTrainingArguments
from .label import complete_soft_labels
from .run_folder import RunFolder, StageRecord, data_inputs
from .student import StudentArguments, make_student
from .training import train_into, training_arguments


logger = logging.getLogger(__name__)

# what `QuantizationAwareCallback` is to round; our int8 of ONNX goes to 64, so that sums do not overflow anywhere
QUANTIZATION_AWARE = {
    "weights": {"top": 127, "activations": None},
    "dynamic": {"top": 64, "activations": "dynamic"},
    "dynamic-int4-embeddings": {"top": 64, "activations": "dynamic", "int4_embeddings": True},
    "static": {"top": 127, "activations": "static"},
}


def distill(
    teacher: str | Sequence[str],
    data: DataArguments,
    args: DistillationTrainingArguments,
    student: StudentArguments = StudentArguments(),
    soft_labels: str | Path | None = None,
    live: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    unlabelled: Sequence[str] = (),
    lora: LoraArguments | None = None,
    teacher_weights: Sequence[float] | None = None,
    quantization_aware: str | None = None,
) -> StageRecord:
    """Distils a student and leaves it in `args.output_dir`, ready to load.

    Training data without labels will do: the student then learns from the teacher's answers alone. Where the evaluation
    split has none either, it is measured by its agreement with the teacher, and by the loss.

    Args:
        teacher: folder or Hub id of a classifier; or several, whose logits are averaged. The student is cut out of the
            first.
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
        teacher_weights: of several teachers; equal by default.
        quantization_aware: the student computes in int8 while it learns, and loses less when it is quantized for good:
            `"weights"`, or with them the activations, `"dynamic"` as in ONNX's int8, `"static"` as in OpenVINO's, or
            `"dynamic-int4-embeddings"` as in ONNX's int8 of that name. What is left is a model in floats.

    Returns:
        the record of the run, with the student's metrics on the evaluation split.

    Raises:
        InputError: for bad data, models that cannot be loaded, labels that do not match, soft labels that are damaged
            or another teacher's, a folder that holds another run, or an adapter for a base without a name.
    """
    teachers, live = to_tuple(teacher), live or bool(CombinedObjective(args).features)
    _check(teachers, teacher_weights, soft_labels, student, lora, quantization_aware)
    train, evaluation, task = load_splits(data, load_config(teachers[0]))
    if "label" not in train.column_names:
        args = arguments_without_labels(args, task)
    extra = drop_duplicates(read_unlabelled(unlabelled, task, data.data_dir), train, evaluation) if unlabelled else None
    tokenizer = load_tokenizer(student.student or teachers[0])
    revisions = [teacher_revision(name) for name in teachers]
    several = {"teacher_weights": normalize_weights(teacher_weights, len(teachers))} if len(teachers) > 1 else {}
    record = StageRecord(
        "distill",
        inputs={
            "teacher": list(teachers) if several else teachers[0],
            "teacher_revision": revisions if several else revisions[0],
            **({"student_revision": teacher_revision(student.student)} if student.student else {}),
            **data_inputs(train, evaluation, task, extra),
        },
        arguments={
            "max_length": data.max_length,
            "live": live,
            **vars(student),
            **training_arguments(args),
            **({"lora": asdict(lora)} if lora else {}),
            **({"quantization_aware": quantization_aware} if quantization_aware else {}),
            **several,
        },
    )
    folder = RunFolder(args.output_dir, record, overwrite, resume)
    if folder.done:
        return folder.record

    set_seed(args.seed)  # before what the teacher cannot give is initialised
    model = make_student(teachers[0], student, task, lora)
    if (report := getattr(model, "init_report", None)) and not student.student:  # else they are the base's own
        record.details["teacher_layers"] = list(report.layers)
    trainer = distillation_trainer(
        add_adapters(model, lora) if lora else model,
        tokenizer,
        list(zip(teachers, revisions, strict=True)),
        (append_unlabelled(train, extra) if extra else train, evaluation),
        task,
        args,
        max_length=data.max_length,
        soft_labels=soft_labels,
        live=live,
        teacher_weights=teacher_weights,
    )
    if quantization_aware:
        trainer.add_callback(QuantizationAwareCallback(trainer, **QUANTIZATION_AWARE[quantization_aware]))
    return train_into(folder, trainer, partial(finish_adapters, base=model, lora=lora) if lora else None)


def distillation_trainer(
    model: PreTrainedModel,
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
    """A trainer of a student on a task's data, the teachers' soft labels completed and attached, or the teachers live.

    Args:
        model, tokenizer: the student's.
        teachers: folders or Hub ids, each with its revision.
        splits: examples to train on and to evaluate on.
        task: what they are.
        args: what to learn from and how.
        max_length: tokens at which examples are cut.
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
                place=place,
            )[0]
            for place, (name, revision) in enumerate(teachers)
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


def _check(
    teachers,
    teacher_weights,
    soft_labels,
    student: StudentArguments,
    lora: LoraArguments | None,
    quantization_aware: str | None,
) -> None:
    """Mistakes that show before anything is loaded."""
    if quantization_aware not in (None, *QUANTIZATION_AWARE):
        raise InputError(
            f"quantization_aware={quantization_aware!r} is unknown; there are {', '.join(QUANTIZATION_AWARE)}"
        )
    if quantization_aware and lora:
        raise InputError("adapters are trained on weights that stay as they are; quantization_aware is without lora")
    normalize_weights(teacher_weights, len(teachers))
    if soft_labels and len(teachers) > 1:
        raise InputError(
            f"{soft_labels} is one file of soft labels, and there are {len(teachers)} teachers; leave it out: each has "
            "a file of its own in the cache"
        )
    if lora and lora.adapter_only and not student.student:
        raise InputError("an adapter alone needs a base to be loaded on: name it with --student, or have it merged")


def arguments_without_labels(args: DistillationTrainingArguments, task: Task) -> DistillationTrainingArguments:
    """Instead of the default objectives, those that need no labels; what else was chosen must need none."""
    if args.objectives == DEFAULT_OBJECTIVES:
        args = copy.copy(args)  # the user's own stays as it is
        args.objectives = {"logits": 1.0}
    if CombinedObjective(args).needs("labels"):
        raise InputError(
            f"objectives={args.objectives} need labels, and the training data of {task.name} has no column "
            f'{task.label_column!r}; without labels, distil with objectives={{"logits": 1.0}}'
        )
    logger.info("no column %r in the training data: learning from the teacher alone", task.label_column)
    return args
