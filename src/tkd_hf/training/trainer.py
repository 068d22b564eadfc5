"""The distillation trainer: a `transformers.Trainer` whose loss is a weighted sum of objectives."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import find_batch_size
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ..core.errors import InputError
from ..core.hardware import padding_multiple
from ..core.names import label_names, label_order
from ..data.collation import DistillationCollator
from ..data.problem_types import ProblemType
from ..data.tokenization import TEACHER_LOGITS, is_teacher_feature, same_tokenizer, to_tuple
from ..models.conversion import to_padding_free
from ..models.layer_map import layer_map, source_layers
from ..models.loading import load_with_head
from ..models.signals import Recorder
from ..objectives.arguments import DistillationTrainingArguments
from ..objectives.base import (
    ObjectiveSetup,
    batch_agreement,
    problem_type_of,
)
from ..teachers.teacher import CachedTeacher, LiveTeacher, Teacher, TeacherEnsemble, normalize_weights
from .base_trainer import BaseTrainer
from .callbacks import PrivateFilesCallback
from .combined import CombinedObjective, RunningMeans
from .rows_in_use import PartlyTrainedEmbedding, restore_word_embeddings, train_rows_in_use


class DistillationTrainer(BaseTrainer):
    """A `Trainer` that trains a student on a teacher's predictions.

    Use it like a `transformers.Trainer`: evaluation, logging, checkpoints and `push_to_hub` work as usual. The loss is
    the weighted sum of `args.objectives`; `tkd_hf.objectives` lists them. The student may be a classifier of texts or
    of tokens, a masked language model, or a bare encoder, which has no logits and learns from features only.

    The teacher's logits come from the column `teacher_logits` if the data has it (see `tkd_hf.SoftLabels`). Otherwise,
    or if an objective reads hidden states or attention, `teacher_model` runs on every batch.

    The logs have the mean of each objective as `loss_<name>`, and `agreement`, the share of examples with the teacher's
    prediction (`teacher_difference` for scores). Evaluation reports them as `eval_…`, and a loss on the scale of the
    training loss. If a batch lacks labels or teacher logits that the loss needs, `eval_loss` is left out; metrics
    and predictions do not change.

    Args:
        model: the student.
        args: the training arguments, with objectives and temperature.
        teacher_model: the teacher, or its Hub id or folder; its weights and mode do not change. Not needed with soft
            labels. With several teachers, the student learns from the weighted mean of their logits
            (`tkd_hf.teachers.teacher.TeacherEnsemble`).
        teacher_processing_class: the teacher's tokenizer, or one per teacher, if it differs from `processing_class`.
            The data must then also have the teacher's features: `tkd_hf.data.tokenization.tokenize` writes both.
        teacher_weights: one weight per teacher (equal weights).
        data_collator: forms batches (`DistillationCollator`, which pads the features of student and teacher).
        train_dataset: tokenised rows with labels, soft labels, or both.
        processing_class: the student's tokenizer.
        kwargs: all other arguments of `Trainer` except `compute_loss_func`.

    Raises:
        TypeError: if `args` are not `DistillationTrainingArguments`.
        ValueError: if the teacher is missing; if an objective lacks its live teacher or its labels; if teacher
            and student differ in their label names, or in their vocabularies without features for the teacher.
            The message says what to change. `tkd_hf.InputError` is a `ValueError`.

    Example:

    ```python
    from tkd_hf import DistillationTrainer, DistillationTrainingArguments, student_from_teacher

    trainer = DistillationTrainer(
        model=student_from_teacher(teacher, num_hidden_layers=3),
        args=DistillationTrainingArguments("runs/sst2-3l", objectives={"logits": 0.9, "hard": 0.1}),
        teacher_model=teacher,
        train_dataset=train,  # tokenised rows
        eval_dataset=dev,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.evaluate()["eval_agreement"]
    ```
    """

    args: DistillationTrainingArguments
    objective: CombinedObjective
    teacher: Teacher | None

    # Objectives are means over a batch, so the Trainer must divide the loss by the accumulation steps. The newest
    # transformers reads this attribute; 5.5 reads `model_accepts_loss_kwargs`, which __init__ sets.
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
        **kwargs: Any,
    ):
        if not isinstance(args, DistillationTrainingArguments):
            raise TypeError(
                f"args is a {type(args).__name__}; a DistillationTrainer takes DistillationTrainingArguments"
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                "compute_loss_func would not be called, because args.objectives define the loss; leave it out"
            )
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
        self.objective.check(self.model, self.problem_type)
        self._check_labels()
        self.live_teachers = teachers = self._load_teachers(to_tuple(teacher_model))
        self.objective.build(self._objective_setup(teachers), self.accelerator)
        self.add_callback(self.objective)
        self.add_callback(PrivateFilesCallback())
        self._record = Recorder(self.model, self.objective.features)
        self.teacher = self._live_teacher(teachers, to_tuple(teacher_processing_class), teacher_weights)
        self._logged = {"train": RunningMeans(), "eval": RunningMeans()}
        self._objectives_fit = True
        self._partial_embedding: PartlyTrainedEmbedding | None = None

    def replace_model(self, model: PreTrainedModel) -> None:
        """Continue with another model of the same kind.

        If pruning has changed its shape, objectives that read features cannot be computed any more, and evaluation
        gives no loss.
        """
        self._objectives_fit = _shape_of(self.model) == _shape_of(model) or not self.objective.features
        super().replace_model(model)
        self._record = Recorder(self.model, self.objective.features)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Compute the weighted sum of the objectives, each a mean over the batch; note their values for the logs."""
        source = self._teacher_for(inputs) if self.objective.needs("teacher") else None
        teacher = None if source is None else source(inputs)
        student, outputs = self._record(model, self._student_features(inputs))
        loss, components = self.objective(student, teacher, inputs, self._progress())
        logged = {f"loss_{name}": component for name, component in components.items()}
        self._last_losses = {name: component.detach() for name, component in components.items()}
        if "logits" in components:
            assert teacher is not None  # the objective has compared the logits, with the labels in the same order
            assert student.logits is not None
            assert teacher.logits is not None
            logged |= batch_agreement(student.logits, teacher.logits, inputs, self.problem_type)
        means = self._logged["train" if model.training else "eval"]
        batch_size = find_batch_size(inputs)
        for name, value in logged.items():
            means.add(name, value, batch_size)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the optimizer of the student, and add the projections that objectives learn.

        If the result is the same, only those rows of the word embeddings are trained that the data uses.
        """
        if self._partial_embedding is not None:  # a second call of train(): the optimizer holds these rows
            self._partial_embedding.reattach(self.model)
        elif type(self.data_collator) is DistillationCollator and self._can_train_rows_in_use():
            padding = self.data_collator.tokenizer.pad_token_id
            self._partial_embedding = train_rows_in_use(
                self.model, self.train_dataset, padding, self.args.optim, self.args.weight_decay
            )
        optimizer = super().create_optimizer(*args, **kwargs)
        self.objective.add_to(optimizer)
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer` does."""
        try:
            return super().train(*args, **kwargs)
        finally:
            restore_word_embeddings(self.model)

    def _can_train_rows_in_use(self) -> bool:
        """Return whether it is safe to train only the embedding rows that occur in the data.

        It is not safe with a callback that edits weights, an optimizer that exists already, FSDP or DeepSpeed. Another
        collator than ours is not safe either, because it may produce other tokens.
        """
        return not (
            self.optimizer
            or self.is_fsdp_enabled
            or self.is_deepspeed_enabled
            or self.checkpointed_callbacks() != [self.objective]
        )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the mean of each objective and the agreement since the last log, next to the weighted sum."""
        if "loss" in logs:
            logs |= self._logged["train"].pop(self.accelerator)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate as `Trainer` does; add each objective's mean over the data set and the agreement to the metrics."""
        self._logged["eval"] = RunningMeans()
        output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None  # Trainer always gives some
        prefix = kwargs.get("metric_key_prefix", "eval")  # Trainer.evaluate and predict name it
        output.metrics.update(self._logged["eval"].pop(self.accelerator, f"{prefix}_"))
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Predict as `Trainer` does; give no loss if the batch lacks labels or logits that the objectives need."""
        # an objective may have asked for hidden states, which must not become predictions
        ignore_keys = ["hidden_states", "attentions"] if ignore_keys is None else ignore_keys
        prediction_loss_only = prediction_loss_only or not self.problem_type.has_logits
        labelled = inputs.get("labels") is not None
        lacks_labels = self.objective.needs("labels") and not labelled
        lacks_teacher = self.objective.needs("teacher") and self._teacher_for(inputs) is None
        has_loss = self._objectives_fit and not lacks_labels and not lacks_teacher
        if has_loss and labelled:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        _, logits, _ = super().prediction_step(model, self._student_features(inputs), prediction_loss_only, ignore_keys)
        with torch.no_grad():  # Trainer computes a loss only for batches with labels
            loss = self.batch_loss(model, inputs).mean().detach() if has_loss else None
        return loss, logits, inputs.get("labels")

    def _progress(self) -> float:
        """Return the share of training done, from 0 to 1."""
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def _student_features(self, inputs: dict[str, Any]) -> dict[str, Any]:
        excluded = {"labels", TEACHER_LOGITS}
        return {name: value for name, value in inputs.items() if name not in excluded and not is_teacher_feature(name)}

    def _teacher_for(self, inputs: dict[str, Any]) -> Teacher | None:
        """Return the soft labels if the batch has them and they are enough, else the live teacher, else `None`."""
        if TEACHER_LOGITS in inputs and not self.objective.features:
            return CachedTeacher()
        return self.teacher

    def _load_teachers(self, teachers: tuple[PreTrainedModel | str, ...]) -> list[PreTrainedModel]:
        """Load the live teachers; none if no objective needs a teacher, or if soft labels are enough."""
        cached = TEACHER_LOGITS in self._columns()
        features = self.objective.features
        if not self.objective.needs("teacher") or (cached and not features):
            return []
        if features and len(teachers) != 1:
            if teachers:
                problem = f"cannot be averaged over {len(teachers)} teachers"
            elif cached:
                problem = "soft labels do not contain"
            else:
                problem = "need a live teacher"
            raise ValueError(
                f"{self.objective.names_reading(features)} read the teacher's {', '.join(sorted(features))}, which "
                f"{problem}; pass one teacher_model, which runs on each batch"
            )
        if not teachers:
            raise ValueError(
                f"objectives={self.args.objectives} need a teacher: pass teacher_model, or attach soft labels "
                f"(the data has no column {TEACHER_LOGITS!r}; SoftLabels.attach adds it)"
            )
        return [
            load_with_head(teacher, self._teacher_head()) if isinstance(teacher, str) else teacher
            for teacher in teachers
        ]

    def _teacher_head(self) -> str:
        """Return the head that the objectives need of a teacher."""
        if self.problem_type.predicts_tokens and "logits" not in self.objective.names:
            return ProblemType.ENCODER.head  # a head over the vocabulary is large, and features are read below it
        return self.problem_type.head

    def _objective_setup(self, teachers: list[PreTrainedModel]) -> ObjectiveSetup:
        student = self.model.config
        if not self.objective.features:
            return ObjectiveSetup(self.args, self.problem_type, student)
        teacher = teachers[0].config
        depth, teacher_depth = student.num_hidden_layers, teacher.num_hidden_layers
        strategy = self.args.layer_map or source_layers(self.model, depth, teacher_depth) or "uniform"
        layers = tuple(layer_map(strategy, depth, teacher_depth))
        return ObjectiveSetup(self.args, self.problem_type, student, teacher, layers)

    def _live_teacher(
        self,
        teachers: Sequence[PreTrainedModel],
        tokenizers: Sequence[PreTrainedTokenizerBase],
        weights: Sequence[float] | None,
    ) -> Teacher | None:
        if len(tokenizers) not in (0, 1, len(teachers)) and teachers:
            raise ValueError(
                f"teacher_processing_class holds {len(tokenizers)} tokenizers for {len(teachers)} teachers; "
                "give one tokenizer per teacher"
            )
        live = []
        for index, teacher in enumerate(teachers):
            tokenizer = tokenizers[index] if index < len(tokenizers) else None
            self._check_vocabulary(teacher, tokenizer, index)
            runnable = teacher if self.objective.features else to_padding_free(teacher)
            prepared = self.accelerator.prepare_model(runnable, evaluation_mode=True)
            live.append(LiveTeacher(prepared, self._label_order(teacher), self.objective.features, index))
        if not live:
            return None
        normalized = normalize_weights(weights, len(live))
        # the signals of an ensemble hold logits only, but a single teacher may have to give features
        return TeacherEnsemble(live, normalized) if len(live) > 1 else live[0]

    def _label_order(self, teacher: PreTrainedModel) -> list[int] | None:
        if self.problem_type.predicts_tokens or "logits" not in self.objective.names:
            return None
        teacher_names, student_names = label_names(teacher.config), label_names(self.model.config)
        if teacher_names == student_names:
            return None
        return label_order(teacher_names, student_names, "teacher", "student")

    def _check_vocabulary(
        self, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, index: int
    ) -> None:
        features = self.objective.features
        has_own_features = any(is_teacher_feature(name, index) for name in self._columns())
        own = self.processing_class
        student_size, teacher_size = self.model.config.vocab_size, teacher.config.vocab_size
        if tokenizer is None:
            other_tokenizer = student_size != teacher_size
        else:  # a model may have more word embeddings than its tokenizer has tokens
            other_tokenizer = own is None or not same_tokenizer(tokenizer, own)
        predicts_tokens = self.problem_type.predicts_tokens and "logits" in self.objective.names
        if not (has_own_features or other_tokenizer or (predicts_tokens and student_size != teacher_size)):
            return
        difference = (
            f"the teacher (vocabulary of {teacher_size}) and the student ({student_size}) have different tokenizers"
            if other_tokenizer or has_own_features
            else f"the teacher has {teacher_size} word embeddings and the student {student_size}"
        )
        if features or self.problem_type.per_token:
            raise InputError(
                f"{difference}, so that their tokens cannot be compared one by one, which "
                f"{self.objective.names_reading(features) or self.problem_type} needs; choose a teacher with the "
                'student\'s tokenizer, or distil a classifier of texts with {"logits": 1.0}'
            )
        if not has_own_features:
            raise ValueError(
                f"{difference}, and the data has no features for the teacher; add them with "
                "tkd_hf.data.tokenization.tokenize(…, teacher_tokenizer=…)"
            )

    def _check_labels(self) -> None:
        columns = self._columns()
        if not self.objective.needs("labels") or not columns or self.problem_type.predicts_tokens:
            return  # in masked language modelling the collator creates the labels
        if not {"label", "labels", "label_ids", *self.label_names} & set(columns):
            raise ValueError(
                f"objectives={self.args.objectives} need labels, but the data has only {columns}; "
                'without labels, distil with objectives={"logits": 1.0}'
            )

    def _columns(self) -> list[str]:
        return getattr(self.train_dataset, "column_names", None) or []

    def columns_besides_inputs(self) -> list[str]:
        """Return the columns of the teacher's logits and features."""
        columns = [*self._columns(), *(getattr(self.eval_dataset, "column_names", None) or [])]
        return [TEACHER_LOGITS, *filter(is_teacher_feature, columns)]


def _shape_of(model: PreTrainedModel) -> list[Any]:
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "heads_per_layer")
    return [getattr(model.config, field, None) for field in fields]
