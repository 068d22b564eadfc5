"""`tkd-hf prune`: a smaller student, pruned towards a target while it is distilled."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..data.loading import DataArguments, load_splits
from ..data.tasks import Task
from ..data.unlabelled import append_unlabelled, drop_duplicates, read_unlabelled
from ..errors import InputError
from ..labels import label_names
from ..model_loading import load_classifier, load_config, load_tokenizer
from ..modeling_tkd import TKDPreTrainedModel
from ..objectives.combined import CombinedObjective
from ..pruning import (
    IMPORTANCE,
    ElementPruner,
    ElementPruningCallback,
    NNCFMasks,
    ParameterTarget,
    PruningCallback,
    Schedule,
    Sparsity,
    SpeedTarget,
    StructuredPruner,
    calibration_data,
    prune_vocabulary,
    sparsity_report,
)
from ..pruning.targets import shape_latencies
from ..pruning.units import DEFAULT_KINDS
from ..pruning.unstructured import magnitude_masks
from ..pruning.vocabulary import corpus_texts
from ..soft_labels import teacher_revision
from ..student import student_from_teacher
from ..trainer import DistillationTrainer
from ..training_args import DistillationTrainingArguments
from .distill import arguments_without_labels, distillation_trainer
from .evaluate import first_texts
from .run_folder import RunFolder, StageRecord, data_inputs
from .student import dropout_fields
from .training import finish_run, log_to_stderr, save_and_evaluate, train_into, training_arguments


logger = logging.getLogger(__name__)

TIMED_SENTENCES = 50
REMOVED_TOKENS = "removed_tokens.txt"


@dataclass(frozen=True)
class PruningArguments:
    """What is wanted, and how to prune towards it: one target, or a sparsity; before either, perhaps the vocabulary.

    Args:
        target_params: the share of the parameters that is to be left; or
        target_size: the size of the weights, in megabytes; or
        target_speedup: how many times as fast as the unpruned model, measured on this machine.
        importance: `"taylor"`, `"magnitude"` or `"activation"`; see `tkd_hf.pruning.importance`.
        schedule: `"one-shot"`, `"linear"` or `"cubic"`; see `tkd_hf.pruning.schedule`.
        units: what may go towards a target, of `"heads"`, `"neurons"`, `"layers"` and `"hidden"`.
        calibration: training examples that importance is measured on.
        vocabulary: keep the tokens that the training texts use. By itself it needs no training; before a target, the
            target is of the model with all its tokens.
        sparsity: the share of single weights that is to be zero, which saves nothing but compressed size; or
        pattern: N of M neighbours that stay, `"2:4"`.
        scope: of `sparsity`, `"global"` or `"layer"`; see `tkd_hf.pruning.unstructured`.
        nncf: let NNCF choose the weights that become zero.

    Raises:
        InputError: if nothing is wanted, or what excludes each other.
    """

    target_params: float | None = None
    target_size: float | None = None
    target_speedup: float | None = None
    importance: str = "taylor"
    schedule: str = "cubic"
    units: tuple[str, ...] = DEFAULT_KINDS
    calibration: int = 256
    vocabulary: bool = False
    sparsity: float | None = None
    pattern: str | None = None
    scope: str = "global"
    nncf: bool = False

    def __post_init__(self):
        targets = ("target_params", "target_size", "target_speedup", "sparsity", "pattern")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.vocabulary):
            ways = f"{', '.join(targets)}; vocabulary can stand alone or go with any"
            raise InputError(f"{' and '.join(given) or 'no target'} given; give one of {ways}")
        if self.elements is None and (self.nncf or self.scope != "global"):
            raise InputError(
                f"nncf={self.nncf} and scope={self.scope!r} are about single weights; give a sparsity with them"
            )
        Schedule(self.schedule)
        if self.importance not in IMPORTANCE:
            raise InputError(f"unknown importance {self.importance!r}; there are {', '.join(IMPORTANCE)}")

    @property
    def elements(self) -> Sparsity | None:
        """Which single weights are to be zero."""
        if self.sparsity is None and self.pattern is None:
            return None
        return Sparsity(self.sparsity, self.scope, self.pattern)

    @property
    def structured(self) -> bool:
        """Whether units are to go."""
        return (self.target_params, self.target_size, self.target_speedup) != (None, None, None)


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
        train: `False` prunes at once and leaves it at that, as is always done where the vocabulary alone is cut.
        soft_labels, live, overwrite, resume, unlabelled: as in `tkd_hf.stages.distill.distill`.

    Returns:
        the record of the run. Beside the metrics of distillation it has `parameters` and `megabytes`, and the measured
        `speedup` over the unpruned model; its `details` say what was removed, by layer, how many tokens are left (the
        others are listed in `removed_tokens.txt`), and how many weights are zero.

    Raises:
        InputError: as `distill`, and for a target that cannot be met, naming the nearest that can.
    """
    itself, teacher = teacher in (None, model), teacher or model
    train = train and (pruning.structured or pruning.elements is not None)
    live = live or not train or bool(CombinedObjective(args).features)
    examples, evaluation, task = load_splits(data, load_config(model))
    if "label" not in examples.column_names:
        args = arguments_without_labels(args, task)
    _check(pruning, args, itself, train)
    extra = (
        drop_duplicates(read_unlabelled(unlabelled, task, data.data_dir), examples, evaluation) if unlabelled else None
    )
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
            **data_inputs(examples, evaluation, task, extra),
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
    whole = convert_to_student(load_classifier(model, task.problem_type), task).to(args.device)
    learned = append_unlabelled(examples, extra) if extra else examples
    smaller, whole_tokenizer = whole, tokenizer
    if pruning.vocabulary:
        smaller, tokenizer, cut = prune_vocabulary(whole, tokenizer, corpus_texts(learned), corpus_texts(evaluation))
    timed = (tokenizer, first_texts(evaluation, TIMED_SENTENCES), data.max_length)
    target = _target(pruning, smaller, whole.num_parameters(), *timed)
    trainer = distillation_trainer(
        smaller,
        tokenizer,
        [(teacher, taught_by)],
        (learned, evaluation),
        task,
        args,
        max_length=data.max_length,
        soft_labels=soft_labels,
        live=live,
    )
    callback = _callback(pruning, trainer, target)

    def measure(trainer: DistillationTrainer) -> dict[str, Any]:
        record.details = {"from": model_size(whole), "to": model_size(trainer.model)}
        if pruning.structured:
            record.details["removed"] = callback.pruner.masks.removed()
        if pruning.elements:
            record.details["sparsity"] = asdict(sparsity_report(trainer.model))
        if pruning.vocabulary:
            record.details["vocabulary"] = {name: value for name, value in asdict(cut).items() if name != "kept"}
            (folder.path / REMOVED_TOKENS).write_text("\n".join(cut.removed_tokens(whole_tokenizer)) + "\n", "utf-8")
        before, after = shape_latencies(whole, [whole.config, trainer.model.config], *timed)
        return {**model_size(trainer.model), "speedup": round(before / after, 2)}

    if train:
        trainer.add_callback(callback)
        return train_into(folder, trainer, measure)
    log_to_stderr(trainer)
    trainer.run_record = record
    folder.start()
    if callback:
        callback.prune_without_training()
    further = measure(trainer)
    return finish_run(folder, trainer, save_and_evaluate(trainer) | further)


def convert_to_student(model: PreTrainedModel, task: Task) -> TKDPreTrainedModel:
    """The model as a TKD, without dropout and with the task's labels in the data's order; a TKD as it is."""
    names = list(task.label_names)
    if isinstance(model, TKDPreTrainedModel) and names in ([], label_names(model.config)):
        return model
    config = {} if isinstance(model, TKDPreTrainedModel) else dropout_fields(0.0)
    return student_from_teacher(model, label_names=names or None, **config)


def model_size(model: PreTrainedModel) -> dict[str, float]:
    """Parameters, and the size of the weights."""
    return {"parameters": model.num_parameters(), "megabytes": round(model.get_memory_footprint() / 1e6, 3)}


def _check(pruning: PruningArguments, args: DistillationTrainingArguments, itself: bool, train: bool) -> None:
    """Mistakes that show before anything is loaded."""
    PruningCallback.check(args)
    objectives = CombinedObjective(args)
    if itself and pruning.structured and pruning.importance == "taylor" and not objectives.needs("labels"):
        raise InputError(
            f"objectives={args.objectives} have no gradient where the student starts as its own teacher, so "
            "importance=taylor says nothing; name another teacher, add 'hard' to the objectives, or choose "
            "importance=activation"
        )
    if train and pruning.vocabulary and objectives.features:
        raise InputError(
            f"{objectives.names_reading(objectives.features)} compare tokens with the teacher's, and a student with a "
            "vocabulary of its own has others; learn from logits and hard alone, or cut the vocabulary afterwards"
        )


def _target(
    pruning: PruningArguments,
    model: TKDPreTrainedModel,
    parameters: int,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
    max_length: int,
) -> ParameterTarget | SpeedTarget | ElementPruner | None:
    """What units, or single weights, are to go for; `None` where the vocabulary alone is cut.

    Args:
        model: what is pruned.
        parameters: of the model with its whole vocabulary, which a share is of.
        tokenizer, texts, max_length: to measure speed with.
    """
    if pruning.target_speedup is not None:
        return SpeedTarget(model, pruning.target_speedup, tokenizer, texts, max_length, pruning.units)
    if pruning.structured:
        return ParameterTarget(model, pruning.target_params, pruning.target_size, pruning.units, parameters)
    if pruning.elements is None:
        return None
    example = tokenizer(*texts[0], truncation=True, max_length=max_length, return_tensors="pt").to(model.device)
    masks = NNCFMasks(model, example) if pruning.nncf else magnitude_masks
    return ElementPruner(model, pruning.elements, masks)


def _callback(
    pruning: PruningArguments,
    trainer: DistillationTrainer,
    target: ParameterTarget | SpeedTarget | ElementPruner | None,
) -> PruningCallback | None:
    """What prunes the trainer's student on the way to the target."""
    schedule = Schedule(pruning.schedule)
    if target is None:
        return None
    if isinstance(target, ElementPruner):
        return ElementPruningCallback(trainer, target, schedule)
    pruner = StructuredPruner(target, *calibration_data(trainer, pruning.calibration), pruning.importance)
    return PruningCallback(trainer, pruner, schedule)
