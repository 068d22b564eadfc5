"""The trainer: an ordinary `transformers.Trainer` whose loss is a weighted sum of objectives."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import find_batch_size
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .callbacks import CheckpointedCallback
from .conversion import to_padding_free
from .data.features import (
    TEACHER_LOGITS,
    DistillationCollator,
    is_teacher_feature,
    same_tokenizer,
    to_tuple,
)
from .errors import InputError
from .hardware import padding_multiple
from .hub.callback import PrivateFilesCallback
from .labels import label_names, label_order
from .layer_map import layer_map
from .objectives.agreement import batch_agreement
from .objectives.base import ENCODER, MASKED_LM, PER_TOKEN, TOKEN_CLASSIFICATION, ObjectiveSetup, problem_type_of
from .objectives.combined import CombinedObjective, RunningMeans
from .rows_in_use import restore_word_embeddings, train_rows_in_use
from .sampling import BaseTrainer
from .signals import ATTENTION_PROJECTIONS, Recorder
from .teacher import CachedTeacher, LiveTeacher, TeacherEnsemble
from .training_args import DistillationTrainingArguments


class DistillationTrainer(BaseTrainer):
    """Trains a student on a teacher's answers, and is otherwise the Trainer that everyone knows.

    The teacher's signals come from the column `teacher_logits` (see `tkd_hf.SoftLabels`) where the data has it, and
    then no teacher is loaded; otherwise, and where an objective reads more than logits, from `teacher_model`, run on
    each batch.

    What the student is decides what it learns: a classifier of texts by its `problem_type`, a classifier of tokens, a
    masked language model, or a bare encoder, which has no answers and learns from features alone.

    Args:
        model: the student.
        args: what to learn from and how.
        teacher_model: the teacher, or its name; its weights and mode stay as they are. Not needed with soft labels.
            Several teachers give the weighted mean of their logits (`tkd_hf.teacher.TeacherEnsemble`).
        teacher_processing_class: the teacher's tokenizer, if it differs from `processing_class`; of several teachers
            one for each. The data must then hold the teacher's features; `tkd_hf.data.features.tokenize` writes both.
        teacher_weights: of several teachers; equal by default.
        data_collator: by default one that pads the features of both.
        kwargs: everything else that a `Trainer` takes.

    Evaluation gives the loss on the scale of training, with `eval_loss_<objective>` and, where the student learns from
    logits, `eval_agreement` with the teacher beside it, and per-example outputs in the order of the data set. Training
    logs the same, to whatever `report_to` names. Where a batch lacks what the loss needs (labels, or the teacher's
    signals), there is no `eval_loss`, and metrics and predictions are what they would be.

    Raises:
        TypeError: if `args` are not `DistillationTrainingArguments`.
        ValueError: if there is no teacher, or only soft labels where an objective reads more, if labels of teacher and
            student are not the same set, if their vocabularies differ and the data holds no features for the teacher,
            or if an objective lacks its labels.

    Example (`train`, `dev`: tokenised data sets):

        student = TKDForSequenceClassification.from_teacher(teacher, num_hidden_layers=3)
        trainer = DistillationTrainer(
            model=student,
            teacher_model=teacher,
            args=DistillationTrainingArguments("runs/x", temperature=2.0),
            train_dataset=train,
            eval_dataset=dev,
            processing_class=tokenizer,
        )
        trainer.train()
    """

    # The objectives are means over a batch: the Trainer is to divide by the accumulation steps. The newest
    # transformers reads this, 5.5 reads `model_accepts_loss_kwargs`, which __init__ sets.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: DistillationTrainingArguments,
        *,
        teacher_model: PreTrainedModel | str | Sequence[PreTrainedModel | str] | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase] | None = None,
        teacher_weights: Sequence[float] | None = None,
        data_collator: Any = None,
        train_dataset: Dataset | None = None,
        processing_class: Any = None,
        **kwargs,
    ):
        if not isinstance(args, DistillationTrainingArguments):
            raise TypeError(
                f"args is a {type(args).__name__}; a DistillationTrainer takes DistillationTrainingArguments"
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would not be called: the loss is that of args.objectives")
        if data_collator is None and isinstance(processing_class, PreTrainedTokenizerBase):
            multiple = padding_multiple(args.device, processing_class)
            data_collator = DistillationCollator(processing_class, teacher_processing_class, multiple)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False
        self.problem_type = problem_type_of(self.model)
        self.objective = CombinedObjective(args)
        self._check_problem_type()
        self._check_labels()
        self._check_compiled()
        self.live_teachers = teachers = self._load_teachers(to_tuple(teacher_model))
        self.objective.build(self._objective_setup(teachers), self.accelerator)
        self.add_callback(self.objective)
        self.add_callback(PrivateFilesCallback())
        self._record = Recorder(self.model, self.objective.features)
        self.teacher = self._live_teacher(teachers, to_tuple(teacher_processing_class), teacher_weights)
        self._logged = {"train": RunningMeans(), "eval": RunningMeans()}
        self._objectives_fit = True
        self._rows_in_use = None

    def replace_model(self, model):
        """As in `BaseTrainer`; what objectives read is read from the new model.

        Features of a model that was pruned have another shape than objectives were built for: there is then no loss.
        """
        fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "heads_per_layer")
        before, now = ([getattr(one.config, name, None) for name in fields] for one in (self.model, model))
        self._objectives_fit = before == now or not self.objective.features
        super().replace_model(model)
        self._record = Recorder(self.model, self.objective.features)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted sum of the objectives, each a mean over the batch."""
        teacher = self._teacher_for(inputs)(inputs) if self.objective.needs("teacher") else None
        student, outputs = self._record(model, self._student_features(inputs))
        loss, components = self.objective(student, teacher, inputs, self._progress())
        logged = {f"loss_{name}": component for name, component in components.items()}
        self._last_losses = {name: component.detach() for name, component in components.items()}
        if "logits" in components:  # the two then answer in the same order of labels
            logged |= batch_agreement(student.logits, teacher.logits, inputs, self.problem_type)
        means, examples = self._logged["train" if model.training else "eval"], find_batch_size(inputs)
        for name, value in logged.items():
            means.add(name, value, examples)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, *args, **kwargs):
        """The student's, with the projections that objectives learn, and of the word embeddings only what is in use."""
        if self._rows_in_use is not None:  # trained before, by the optimizer that goes on
            self._rows_in_use.reattach(self.model)
        elif self._leaves_rows_out():
            padding = self.data_collator.tokenizer.pad_token_id
            self._rows_in_use = train_rows_in_use(
                self.model, self.train_dataset, padding, self.args.optim, self.args.weight_decay
            )
        optimizer = super().create_optimizer(*args, **kwargs)
        self.objective.add_to(optimizer)
        return optimizer

    def train(self, *args, **kwargs):
        """As in `Trainer`."""
        try:
            return super().train(*args, **kwargs)
        finally:
            restore_word_embeddings(self.model)

    def _leaves_rows_out(self) -> bool:
        """Not where another collator may make tokens up, where callbacks change weights, or others share them out."""
        return not (
            self.optimizer
            or self.is_fsdp_enabled
            or self.is_deepspeed_enabled
            or type(self.data_collator) is not DistillationCollator
            or self._checkpointed() != [self.objective]
        )

    def log(self, logs: dict[str, float], *args, **kwargs):
        """Logs the mean of each objective since the last time beside their weighted sum, and the agreement."""
        if "loss" in logs:
            logs |= self._logged["train"].pop(self.accelerator)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """Adds the mean of each objective over the data set to the metrics, and the agreement with the teacher."""
        self._logged["eval"] = RunningMeans()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update(self._logged["eval"].pop(self.accelerator, f"{metric_key_prefix}_"))
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in `Trainer`, and without a loss where the batch does not hold what the objectives need."""
        # hidden states that an objective asked for are no predictions
        ignore_keys = ["hidden_states", "attentions"] if ignore_keys is None else ignore_keys
        prediction_loss_only = prediction_loss_only or self.problem_type == ENCODER
        labelled = inputs.get("labels") is not None
        complete = (
            self._objectives_fit
            and not (self.objective.needs("labels") and not labelled)
            and not (self.objective.needs("teacher") and self._teacher_for(inputs) is None)
        )
        if complete and labelled:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        _, logits, _ = super().prediction_step(model, self._student_features(inputs), prediction_loss_only, ignore_keys)
        return self._loss_without_labels(model, inputs) if complete else None, logits, inputs.get("labels")

    def _loss_without_labels(self, model, inputs) -> torch.Tensor:
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).mean().detach()

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            for part in self._checkpointed():
                part.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            for part in self._checkpointed():
                part.load(checkpoint)  # first: it says what is wrong where the optimizer's state does not fit
        super()._load_optimizer_and_scheduler(checkpoint)

    def _checkpointed(self) -> list[CheckpointedCallback]:
        """The objectives, and what else was added that checkpoints have to hold."""
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, CheckpointedCallback)]

    def _progress(self) -> float:
        """The share of training that is done, 0 before it."""
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def _student_features(self, inputs: dict[str, Any]) -> dict[str, Any]:
        other = {"labels", TEACHER_LOGITS}
        return {name: v for name, v in inputs.items() if name not in other and not is_teacher_feature(name)}

    def _teacher_for(self, inputs: dict[str, Any]) -> LiveTeacher | TeacherEnsemble | CachedTeacher | None:
        """Soft labels where the batch has them and they are enough, then the live teacher; `None` without either."""
        return CachedTeacher() if TEACHER_LOGITS in inputs and not self.objective.features else self.teacher

    def _load_teachers(self, teachers: tuple[PreTrainedModel | str, ...]) -> list[PreTrainedModel]:
        """The live teachers; none where nothing asks for one or soft labels are enough."""
        cached = TEACHER_LOGITS in self._columns()
        features = self.objective.features
        if not self.objective.needs("teacher") or (cached and not features):
            return []
        if features and len(teachers) != 1:
            what = f"cannot be averaged over {len(teachers)}" if teachers else "only a teacher gives"
            what = "soft labels do not hold" if cached and not teachers else what
            raise ValueError(
                f"{self.objective.names_reading(features)} read the teacher's {', '.join(sorted(features))}, which "
                f"{what}: pass one teacher_model, which runs on each batch"
            )
        if not teachers:
            raise ValueError(
                f"objectives={self.args.objectives} need a teacher: pass teacher_model, or attach soft labels "
                f"(SoftLabels.attach adds the column {TEACHER_LOGITS!r}, which the data lacks)"
            )
        load = self._auto_class().from_pretrained
        return [load(teacher) if isinstance(teacher, str) else teacher for teacher in teachers]

    def _auto_class(self):
        """What loads a teacher with the student's kind of answers."""
        if self.problem_type == MASKED_LM and "logits" not in self.objective.names:
            return AutoModel
        kinds = {
            TOKEN_CLASSIFICATION: AutoModelForTokenClassification,
            MASKED_LM: AutoModelForMaskedLM,
            ENCODER: AutoModel,
        }
        return kinds.get(self.problem_type, AutoModelForSequenceClassification)

    def _objective_setup(self, teachers: list[PreTrainedModel]) -> ObjectiveSetup:
        student = self.model.config
        if not self.objective.features:
            return ObjectiveSetup(self.args, self.problem_type, student)
        teacher = teachers[0].config
        depth, taught = student.num_hidden_layers, teacher.num_hidden_layers
        chosen = self.args.layer_map or _built_from(self.model, depth, taught) or "uniform"
        return ObjectiveSetup(self.args, self.problem_type, student, teacher, tuple(layer_map(chosen, depth, taught)))

    def _live_teacher(self, teachers, tokenizers, weights) -> LiveTeacher | TeacherEnsemble | None:
        if len(tokenizers) not in (0, 1, len(teachers)) and teachers:
            raise ValueError(
                f"{len(tokenizers)} teacher_processing_class for {len(teachers)} teachers; give each its own tokenizer"
            )
        live = []
        for place, teacher in enumerate(teachers):
            self._check_vocabulary(teacher, tokenizers[place] if place < len(tokenizers) else None, place)
            answering = teacher if self.objective.features else to_padding_free(teacher)
            prepared = self.accelerator.prepare_model(answering, evaluation_mode=True)
            live.append(LiveTeacher(prepared, self._label_order(teacher), self.objective.features, place))
        if len(live) > 1 or weights is not None:
            return TeacherEnsemble(live, weights) if live else None
        return live[0] if live else None

    def _label_order(self, teacher: PreTrainedModel) -> list[int] | None:
        if self.problem_type in (MASKED_LM, ENCODER) or "logits" not in self.objective.names:
            return None
        names, wanted = label_names(teacher.config), label_names(self.model.config)
        return label_order(names, wanted, "teacher", "student") if names != wanted else None

    def _check_vocabulary(self, teacher: PreTrainedModel, tokenizer, place: int):
        features = self.objective.features
        prepared = any(is_teacher_feature(name, place) for name in self._columns())
        other_tokenizer = tokenizer is not None and not same_tokenizer(tokenizer, self.processing_class)
        ours, theirs = self.model.config.vocab_size, teacher.config.vocab_size
        different = prepared or other_tokenizer or ours != theirs
        if different and (features or self.problem_type in PER_TOKEN):
            raise InputError(
                f"the teacher (vocabulary of {theirs}) and the student ({ours}) have different tokenizers, so their "
                "tokens cannot be compared one by one, as "
                f"{self.objective.names_reading(features) or self.problem_type} needs; choose a teacher with the "
                'student\'s tokenizer, or distil texts with {"logits": 1.0}'
            )
        if different and not prepared:
            raise ValueError(
                f"the teacher (vocabulary of {theirs}) and the student ({ours}) have different tokenizers, and the "
                "data has no columns for the teacher: use tkd_hf.data.features.tokenize(…, teacher_tokenizer=…)"
            )

    def _check_problem_type(self):
        if self.problem_type == ENCODER and (answered := self.objective.names_reading_logits()):
            raise InputError(
                f"{type(self.model).__name__} has no head, so {answered} have no answers to learn from; "
                "choose a student with a head, or objectives that read features, such as relations"
            )

    def _check_labels(self):
        columns = self._columns()
        if not self.objective.needs("labels") or not columns or self.problem_type == MASKED_LM:
            return  # the collator of masked language modelling makes the labels
        if not {"label", "labels", "label_ids", *self.label_names} & set(columns):
            raise ValueError(
                f"objectives={self.args.objectives} need labels, but the data has only {columns}; "
                'without labels, distil with objectives={"logits": 1.0}'
            )

    def _check_compiled(self):
        if self.args.torch_compile and (read := self.objective.features & set(ATTENTION_PROJECTIONS)):
            raise InputError(
                f"torch_compile=True, and {self.objective.names_reading(read)} read {', '.join(sorted(read))} by hooks,"
                " which compiled models may pass over; train without torch_compile, or from logits and hidden states"
            )

    def _columns(self) -> list[str]:
        return getattr(self.train_dataset, "column_names", None) or []

    def _set_signature_columns_if_needed(self):
        # the Trainer would drop every column that the student's forward does not name
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            columns = [*self._columns(), *(getattr(self.eval_dataset, "column_names", None) or [])]
            self._signature_columns += [TEACHER_LOGITS, *filter(is_teacher_feature, columns)]


def _built_from(student: nn.Module, depth: int, teacher_layers: int) -> tuple[int, ...] | None:
    """The teacher's layers that the student was built from, where it says so and they fit."""
    report = getattr(student, "init_report", None)
    fits = report is not None and (len(report.layers), report.teacher_layers) == (depth, teacher_layers)
    return report.layers if fits else None
