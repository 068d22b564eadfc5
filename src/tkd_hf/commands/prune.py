"""`tkd-hf prune`: prune a model towards a target while it is distilled from its teacher."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..core.errors import InputError
from ..core.names import label_names
from ..core.options import accepts
from ..core.processes import resumable
from ..data.loading import load_splits
from ..data.tasks import Task
from ..data.tokenization import check_max_length
from ..data.unlabelled import append_unlabelled
from ..models.arguments import dropout_fields
from ..models.loading import load_classifier, load_config, load_tokenizer
from ..models.modeling_tkd import TKDPreTrainedModel
from ..models.student import student_from_teacher
from ..objectives.arguments import DistillationTrainingArguments
from ..pruning.arguments import PruningArguments, Schedule
from ..pruning.callback import PruningCallback, ScheduledPruning, calibration_data
from ..pruning.nncf import NNCFMasks
from ..pruning.pruner import StructuredPruner
from ..pruning.targets import ParameterTarget, SpeedTarget, Target, shape_latencies
from ..pruning.unstructured import ElementPruner, ElementPruningCallback, magnitude_masks, sparsity_report
from ..pruning.vocabulary import VocabularyReport, corpus_texts, prune_vocabulary
from ..records.inputs import data_inputs, teacher_revision, training_arguments
from ..records.recorded import recorded_data
from ..records.run_folder import RunFolder, StageRecord
from ..training.combined import CombinedObjective
from ..training.stage import finish_run, log_to_stderr, save_and_evaluate, train_into
from ..training.trainer import DistillationTrainer
from .distill import arguments_without_labels, distillation_trainer, new_texts
from .evaluate import first_texts
from .options import PruneOptions


logger = logging.getLogger(__name__)

TIMED_TEXTS = 50
REMOVED_TOKENS_FILE = "removed_tokens.txt"


@accepts(PruneOptions)
def prune(options: PruneOptions) -> StageRecord:
    """Prune a model while it is distilled, and save the smaller model in `args.output_dir`.

    Use it to make a student smaller or faster than its number of layers allows, or to remove tokens that the data never
    use. A target that removes much needs several epochs of training to recover; without training (`train=False`) the
    quality usually drops. Single weights that are set to zero (`sparsity`) save neither time nor memory by themselves.

    Returns:
        the record of the run. Its metrics are those of distillation, `parameters`, `megabytes`, and the measured
        `speedup` over the unpruned model. Its `details` hold the removed units per layer, the number of tokens that
        are left (the removed tokens are listed in `removed_tokens.txt`), and the sparsity.

    Raises:
        InputError: as `distill`, and if the target cannot be met; the message names the nearest possible target.

    Example:

    ```python
    from tkd_hf import DataArguments, DistillationTrainingArguments, PruningArguments, prune

    record = prune(
        "runs/student",
        DataArguments(task="sst2"),
        DistillationTrainingArguments("runs/pruned", num_train_epochs=3),
        PruningArguments(target_params=0.5),
        teacher="runs/teacher",
    )
    print(record.metrics["parameters"], record.metrics["speedup"])
    ```
    """
    args, pruning = options.args, options.pruning
    data = options.data or recorded_data([options.model, *([options.teacher] if options.teacher else [])])
    teacher = options.teacher or options.model
    train = options.train and (pruning.removes_units or pruning.element_sparsity is not None)
    live = options.live or not train or bool(CombinedObjective(args).features)
    examples, evaluation, task = load_splits(data, load_config(options.model))
    if "label" not in examples.column_names:
        args = arguments_without_labels(args, task)
    _check(pruning, args, teacher == options.model, train)
    extra = new_texts(options.unlabelled, data, examples, evaluation, task)
    full_tokenizer = load_tokenizer(options.model)
    record = _record(options, args, teacher, train, live, data.max_length)
    record.inputs |= data_inputs(data, examples, evaluation, task, extra)
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

    set_seed(args.seed)
    unpruned = convert_to_student(load_classifier(options.model, task.problem_type), task)
    unpruned.to(args.device)  # type: ignore[arg-type]  # transformers wraps `to` without types
    train_examples = append_unlabelled(examples, extra) if extra else examples
    student, tokenizer, vocabulary = unpruned, full_tokenizer, None
    if pruning.vocabulary:
        texts = corpus_texts(train_examples), corpus_texts(evaluation)
        student, tokenizer, vocabulary = prune_vocabulary(unpruned, full_tokenizer, *texts)
    timing = (tokenizer, first_texts(evaluation, TIMED_TEXTS), data.max_length)
    target = _target(pruning, student, unpruned.num_parameters(), *timing)
    trainer = distillation_trainer(
        student,
        tokenizer,
        [(teacher, record.inputs["teacher_revision"])],
        (train_examples, evaluation),
        task,
        args,
        max_length=data.max_length,
        soft_labels=options.soft_labels,
        live=live,
    )
    callback = _callback(pruning, trainer, target)

    def measure(trainer: DistillationTrainer) -> dict[str, Any]:
        """Record the removed parts, and return the metrics of the pruned model's size and speed."""
        pruned = trainer.model
        assert isinstance(pruned, TKDPreTrainedModel)  # pruning does not change the class of the student
        record.details = {"from": model_size(unpruned), "to": model_size(pruned), **_removed_parts(callback, pruned)}
        if vocabulary is not None:
            record.details["vocabulary"] = _list_removed_tokens(vocabulary, full_tokenizer, folder.path)
        before, after = shape_latencies(unpruned, [unpruned.config, pruned.config], *timing)
        return {**model_size(pruned), "speedup": round(before / after, 2)}

    if callback is not None and train:
        trainer.add_callback(callback)
        return train_into(folder, trainer, measure)
    return _prune_at_once(folder, trainer, callback, measure)


def _prune_at_once(
    folder: RunFolder,
    trainer: DistillationTrainer,
    callback: ScheduledPruning | None,
    measure: Callable[[DistillationTrainer], dict[str, Any]],
) -> StageRecord:
    """Prune and save the trainer's model without training it, and return the finished record."""
    log_to_stderr(trainer)
    trainer.run_record = folder.record
    folder.start()
    with resumable():
        if callback is not None:
            callback.prune_without_training()
        size_and_speed = measure(trainer)
        return finish_run(folder, trainer, save_and_evaluate(trainer) | size_and_speed)


def _record(
    options: PruneOptions,
    args: DistillationTrainingArguments,
    teacher: str,
    train: bool,
    live: bool,
    max_length: int,
) -> StageRecord:
    """Return the record of a run, to which the data is still to be added.

    Args:
        options: the options of the command.
        args: the training arguments, with other objectives than in `options` if the data has no labels.
        teacher: folder or Hub id of the teacher; the model itself if no other is given.
        train: whether the model trains during and after pruning.
        live: whether the teacher runs along.
        max_length: number of tokens to which examples are truncated.
    """
    revision = teacher_revision(options.model)
    return StageRecord(
        "prune",
        inputs={
            "model": options.model,
            "model_revision": revision,
            "teacher": teacher,
            "teacher_revision": revision if teacher == options.model else teacher_revision(teacher),
        },
        arguments={
            "max_length": max_length,
            "live": live,
            "train": train,
            **asdict(options.pruning),
            **(training_arguments(args) if train else {"seed": str(args.seed)}),
        },
    )


def _removed_parts(callback: ScheduledPruning | None, model: TKDPreTrainedModel) -> dict[str, Any]:
    """Return what pruning has removed, for the run record: units per layer, or the sparsity of each matrix."""
    if isinstance(callback, PruningCallback):
        return {"removed": callback.pruner.masks.removed()}
    if isinstance(callback, ElementPruningCallback):
        return {"sparsity": asdict(sparsity_report(model))}
    return {}


def _list_removed_tokens(
    report: VocabularyReport, full_tokenizer: PreTrainedTokenizerBase, folder: Path
) -> dict[str, Any]:
    """Write the removed tokens into a file of the run folder, and return the report for the run record."""
    (folder / REMOVED_TOKENS_FILE).write_text("\n".join(report.removed_tokens(full_tokenizer)) + "\n", "utf-8")
    return {name: value for name, value in asdict(report).items() if name != "kept"}


def convert_to_student(model: PreTrainedModel, task: Task) -> TKDPreTrainedModel:
    """Convert a model to TKD, without dropout and with the task's labels in the order of the data.

    A TKD model with the right labels is returned as it is.
    """
    names = list(task.label_names)
    if isinstance(model, TKDPreTrainedModel) and names in ([], label_names(model.config)):
        return model
    config = {} if isinstance(model, TKDPreTrainedModel) else dropout_fields(0.0)
    return student_from_teacher(model, label_names=names or None, **config)


def model_size(model: PreTrainedModel) -> dict[str, float]:
    """Return the number of parameters, and the size of the weights in megabytes (10⁶ bytes)."""
    return {"parameters": model.num_parameters(), "megabytes": round(model.get_memory_footprint() / 1e6, 3)}


def _check(pruning: PruningArguments, args: DistillationTrainingArguments, is_own_teacher: bool, train: bool) -> None:
    """Raise an `InputError` for arguments that do not fit together, before any model is loaded."""
    ScheduledPruning.check(args)
    objectives = CombinedObjective(args)
    uses_taylor = pruning.removes_units and pruning.importance == "taylor"
    if is_own_teacher and uses_taylor and not objectives.needs("labels"):
        raise InputError(
            f"objectives={args.objectives} have no gradient if the student starts as its own teacher, so "
            "importance=taylor cannot rank units; name another teacher, add 'hard' to the objectives, or choose "
            "importance=activation"
        )
    if train and pruning.vocabulary and objectives.features:
        raise InputError(
            f"the objectives {objectives.names_reading(objectives.features)} compare the student's tokens with the "
            "teacher's, and a pruned vocabulary splits texts into other tokens; use the objectives logits and hard "
            "only, or prune the vocabulary afterwards"
        )


def _target(
    pruning: PruningArguments,
    model: TKDPreTrainedModel,
    parameters: int,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
    max_length: int,
) -> Target | ElementPruner | None:
    """Return the target for units, or the pruner of single weights; `None` if only the vocabulary is pruned.

    Args:
        pruning: the arguments of the run.
        model: model to prune.
        parameters: number of parameters of the model with its full vocabulary, to which `target_params` refers.
        tokenizer, texts, max_length: what to measure speed with.
    """
    if pruning.target_speedup is not None:
        return SpeedTarget(model, pruning.target_speedup, tokenizer, texts, max_length, pruning.units)
    if pruning.removes_units:
        return ParameterTarget(model, pruning.target_params, pruning.target_size, pruning.units, parameters)
    if pruning.element_sparsity is None:
        return None
    limit = check_max_length(tokenizer, max_length)
    example = tokenizer(*texts[0], truncation=True, max_length=limit, return_tensors="pt").to(model.device)
    masks = NNCFMasks(model, example) if pruning.nncf else magnitude_masks
    return ElementPruner(model, pruning.element_sparsity, masks)


def _callback(
    pruning: PruningArguments,
    trainer: DistillationTrainer,
    target: Target | ElementPruner | None,
) -> ScheduledPruning | None:
    """Return the callback that prunes the trainer's student; `None` if only the vocabulary is pruned."""
    schedule = Schedule(pruning.schedule)
    if target is None:
        return None
    if isinstance(target, ElementPruner):
        return ElementPruningCallback(trainer, target, schedule)
    pruner = StructuredPruner(target, *calibration_data(trainer, pruning.calibration), pruning.importance)
    return PruningCallback(trainer, pruner, schedule)
