"""`tkd-hf prune`: a smaller student, pruned towards a target while it is distilled."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..data.loading import DataArguments, load_splits
from ..data.tasks import Task
from ..data.unlabelled import drop_known, join, read_unlabelled
from ..errors import InputError
from ..labels import label_names
from ..model_loading import load_classifier, load_config, load_tokenizer
from ..modeling_tkd import TKDPreTrainedModel
from ..objectives.combined import CombinedObjective
from ..pruning import IMPORTANCE, ParameterTarget, PruningCallback, Schedule, SpeedTarget, StructuredPruner, calibration
from ..pruning.targets import milliseconds_of
from ..pruning.units import DEFAULT_KINDS
from ..soft_labels import teacher_revision
from ..student import student_from_teacher
from ..training_args import DistillationTrainingArguments
from .distill import distillation_trainer, without_labels
from .evaluate import texts_of
from .run_folder import RunFolder, StageRecord, data_inputs
from .training import log_to_stderr, save_and_evaluate, train_into, training_arguments


logger = logging.getLogger(__name__)

TIMED_SENTENCES = 50


@dataclass(frozen=True)
class PruningArguments:
    """What is wanted, and how to prune towards it.

    Args:
        target_params: the share of the parameters that is to be left; or
        target_size: the size of the weights, in megabytes; or
        target_speedup: how many times as fast as the unpruned model, measured on this machine.
        importance: `"taylor"`, `"magnitude"` or `"activation"`; see `tkd_hf.pruning.importance`.
        schedule: `"one-shot"`, `"linear"` or `"cubic"`; see `tkd_hf.pruning.schedule`.
        units: what may go, of `"heads"`, `"neurons"`, `"layers"` and `"hidden"`.
        calibration: training examples that importance is measured on.

    Raises:
        InputError: unless there is exactly one target.
    """

    target_params: float | None = None
    target_size: float | None = None
    target_speedup: float | None = None
    importance: str = "taylor"
    schedule: str = "cubic"
    units: tuple[str, ...] = DEFAULT_KINDS
    calibration: int = 256

    def __post_init__(self):
        targets = ("target_params", "target_size", "target_speedup")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(f"{' and '.join(given) or 'no target'} given; give one of {', '.join(targets)}")
        Schedule(self.schedule)
        if self.importance not in IMPORTANCE:
            raise InputError(f"unknown importance {self.importance!r}; there are {', '.join(IMPORTANCE)}")


def prune(
    model: str,
    data: DataArguments,
    args: DistillationTrainingArguments,
    pruning: PruningArguments,
    teacher: str | None = None,
    train: bool = True,
    soft_labels: str | Path | None = None,
    live: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    unlabelled: Sequence[str] = (),
) -> StageRecord:
    """Prunes a model while it is distilled, and leaves what is left in `args.output_dir`, ready to load.

    Args:
        model: folder or Hub id of a classifier: a student, or a teacher, which is converted first.
        data: the task, or the data set.
        args: what to learn from and how, in recovery.
        pruning: the target, and how to prune towards it.
        teacher: folder or Hub id; by default the model itself, as it was.
        train: `False` prunes at once and leaves it at that.
        soft_labels, live, overwrite, resume, unlabelled: as in `tkd_hf.stages.distill.distill`.

    Returns:
        the record of the run. Beside the metrics of distillation it has `parameters` and `megabytes`, and the measured
        `speedup` over the unpruned model; its `details` say what was removed, by layer.

    Raises:
        InputError: as `distill`, and for a target that cannot be met, naming the nearest that can.
    """
    itself, teacher = teacher in (None, model), teacher or model
    live = live or not train or bool(CombinedObjective(args).features)
    examples, evaluation, task = load_splits(data, load_config(model))
    if "label" not in examples.column_names:
        args = without_labels(args, task)
    _check(pruning, args, itself)
    extra = drop_known(read_unlabelled(unlabelled, task), examples, evaluation) if unlabelled else None
    tokenizer = load_tokenizer(model)
    revision = teacher_revision(model)
    taught_by = revision if itself else teacher_revision(teacher)
    record = StageRecord(
        "prune",
        inputs={
            "model": model,
            "model_revision": revision,
            "teacher": teacher,
            "teacher_revision": taught_by,
            **data_inputs(examples, evaluation, task.name, extra),
        },
        arguments={
            "max_length": data.max_length,
            "live": live,
            "train": train,
            **asdict(pruning),
            **(training_arguments(args) if train else {"seed": str(args.seed)}),
        },
    )
    folder = RunFolder(args.output_dir, record, overwrite, resume)
    if folder.done:
        return folder.record

    set_seed(args.seed)
    whole = as_student(load_classifier(model, task.problem_type), task).to(args.device)
    texts = texts_of(evaluation, TIMED_SENTENCES)
    target = _target(pruning, whole, tokenizer, texts, data.max_length)
    trainer = distillation_trainer(
        whole,
        tokenizer,
        [(teacher, taught_by)],
        (join(examples, extra) if extra else examples, evaluation),
        task,
        args,
        max_length=data.max_length,
        soft_labels=soft_labels,
        live=live,
    )
    pruner = StructuredPruner(target, *calibration(trainer, pruning.calibration), pruning.importance)

    def measure(trainer) -> dict[str, Any]:
        record.details = {"removed": pruner.masks.removed(), "from": costs(whole), "to": costs(trainer.model)}
        shapes = [whole.config, trainer.model.config]
        before, after = milliseconds_of(whole, shapes, tokenizer, texts, data.max_length)
        return {**costs(trainer.model), "speedup": round(before / after, 2)}

    if train:
        trainer.add_callback(PruningCallback(trainer, pruner, Schedule(pruning.schedule)))
        return train_into(folder, trainer, measure)
    log_to_stderr(trainer)
    folder.start()
    pruner.prune()
    trainer.replace_model(pruner.compacted())
    further = measure(trainer)
    return folder.finish(save_and_evaluate(trainer) | further)


def as_student(model: PreTrainedModel, task: Task) -> TKDPreTrainedModel:
    """The model as a TKD, with the task's labels in the data's order; itself where it is that already."""
    names = list(task.label_names)
    if isinstance(model, TKDPreTrainedModel) and names in ([], label_names(model.config)):
        return model
    return student_from_teacher(model, label_names=names or None)


def costs(model: PreTrainedModel) -> dict[str, float]:
    """Parameters, and the size of the weights."""
    return {"parameters": model.num_parameters(), "megabytes": round(model.get_memory_footprint() / 1e6, 3)}


def _check(pruning: PruningArguments, args: DistillationTrainingArguments, itself: bool) -> None:
    """Mistakes that show before anything is loaded."""
    PruningCallback.check(args)
    if itself and pruning.importance == "taylor" and not CombinedObjective(args).needs("labels"):
        raise InputError(
            f"objectives={args.objectives} have no gradient where the student starts as its own teacher, so "
            "importance=taylor says nothing; name another teacher, add 'hard' to the objectives, or choose "
            "importance=activation"
        )


def _target(
    pruning: PruningArguments,
    model: TKDPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
    max_length: int,
) -> ParameterTarget | SpeedTarget:
    if pruning.target_speedup is not None:
        return SpeedTarget(model, pruning.target_speedup, tokenizer, texts, max_length, pruning.units)
    return ParameterTarget(model, pruning.target_params, pruning.target_size, pruning.units)
