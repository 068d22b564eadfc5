"""The trainer: an ordinary `transformers.Trainer` whose loss is a weighted sum of objectives."""

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from .data.features import (
    TEACHER_LOGITS,
    TEACHER_PREFIX,
    DistillationCollator,
    is_teacher_feature,
    same_tokenizer,
)
from .labels import label_names, label_order
from .objectives import OBJECTIVES
from .sampling import OrderedTrainer
from .teacher import CachedTeacher, LiveTeacher
from .training_args import DistillationTrainingArguments


TEACHER_COLUMNS = [TEACHER_LOGITS] + [
    f"{TEACHER_PREFIX}{name}" for name in ("input_ids", "attention_mask", "token_type_ids")
]


class DistillationTrainer(OrderedTrainer):
    """Trains a student on a teacher's answers, and is otherwise the Trainer that everyone knows.

    The teacher's signals come from the column `teacher_logits` (see `tkd_hf.SoftLabels`) where the data has it, and
    then no teacher is loaded; otherwise from `teacher_model`, run on each batch.

    Args:
        model: the student.
        args: what to learn from and how.
        teacher_model: the teacher, or its name; its weights and mode stay as they are. Not needed with soft labels.
        teacher_processing_class: the teacher's tokenizer, if it differs from `processing_class`. The data must then
            hold the teacher's features; `tkd_hf.data.features.tokenize` writes both.
        data_collator: by default one that pads the features of both.
        kwargs: everything else that a `Trainer` takes.

    Evaluation gives the loss on the scale of training, with `eval_loss_<objective>` beside it, and per-example outputs
    in the order of the data set. Where a batch lacks what the loss needs (labels, or the teacher's signals), there is
    no `eval_loss`, and metrics and predictions are what they would be.

    Raises:
        TypeError: if `args` are not `DistillationTrainingArguments`.
        ValueError: if there is no teacher, if labels of teacher and student are not the same set, if their
            vocabularies differ and the data holds no features for the teacher, or if an objective lacks its labels.

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
        teacher_model: PreTrainedModel | str | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
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
            data_collator = DistillationCollator(processing_class, teacher_processing_class)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False
        problem_type = problem_type_of(self.model.config)
        self.weights = {name: weight for name, weight in args.objectives.items() if weight}
        self.objectives = {name: OBJECTIVES[name](args, problem_type) for name in self.weights}
        self._check_labels()
        self.teacher = self._find_teacher(teacher_model, teacher_processing_class)
        self._components = {"train": _Means(), "eval": _Means()}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted sum of the objectives, each a mean over the batch."""
        teacher = self._teacher_for(inputs)(inputs) if self._needs("teacher") else None
        outputs = model(**self._student_features(inputs))
        loss, batch_size = 0.0, len(outputs.logits)
        for name, objective in self.objectives.items():
            component = objective(outputs, teacher, inputs)
            loss = loss + self.weights[name] * component
            self._components["train" if model.training else "eval"].add(name, component, batch_size)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs):
        """Logs the mean of each objective since the last time beside their weighted sum."""
        if "loss" in logs:
            logs |= self._components["train"].pop(self.accelerator, "loss_")
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """Adds the mean of each objective over the data set to the metrics."""
        self._components["eval"] = _Means()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update(self._components["eval"].pop(self.accelerator, f"{metric_key_prefix}_loss_"))
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in `Trainer`, and without a loss where the batch does not hold what the objectives need."""
        # hidden states that an objective asked for are no predictions
        ignore_keys = ["hidden_states", "attentions"] if ignore_keys is None else ignore_keys
        complete = not (self._needs("labels") and inputs.get("labels") is None) and not (
            self._needs("teacher") and self._teacher_for(inputs) is None
        )
        if complete and inputs.get("labels") is not None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        features = self._student_features(inputs)
        _, logits, _ = super().prediction_step(model, features, prediction_loss_only, ignore_keys)
        return None, logits, inputs.get("labels")

    def _student_features(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: v for name, v in inputs.items() if name != "labels" and not name.startswith(TEACHER_PREFIX)}

    def _needs(self, what: str) -> bool:
        return any(getattr(objective, f"needs_{what}") for objective in self.objectives.values())

    def _teacher_for(self, inputs: dict[str, Any]) -> LiveTeacher | CachedTeacher | None:
        """Soft labels where the batch has them, then the live teacher; `None` if there is neither."""
        return CachedTeacher() if TEACHER_LOGITS in inputs else self.teacher

    def _find_teacher(self, teacher, tokenizer) -> LiveTeacher | None:
        """The live teacher, or `None` where the data holds soft labels or no objective asks for a teacher."""
        columns = getattr(self.train_dataset, "column_names", None) or []
        if not self._needs("teacher") or TEACHER_LOGITS in columns:
            return None
        if teacher is None:
            raise ValueError(
                f"objectives={self.args.objectives} need a teacher: pass teacher_model, or attach soft labels "
                f"(SoftLabels.attach adds the column {TEACHER_LOGITS!r}, which the data lacks)"
            )
        if isinstance(teacher, str):
            teacher = AutoModelForSequenceClassification.from_pretrained(teacher)
        self._check_vocabulary(teacher, tokenizer, columns)
        names, wanted = label_names(teacher.config), label_names(self.model.config)
        order = label_order(names, wanted, "teacher", "student")
        prepared = self.accelerator.prepare_model(teacher, evaluation_mode=True)
        return LiveTeacher(prepared, None if names == wanted else order)

    def _check_vocabulary(self, teacher, tokenizer, columns):
        if any(is_teacher_feature(name) for name in columns):
            return
        other_tokenizer = tokenizer is not None and not same_tokenizer(tokenizer, self.processing_class)
        ours, theirs = self.model.config.vocab_size, teacher.config.vocab_size
        if other_tokenizer or ours != theirs:
            raise ValueError(
                f"the teacher (vocabulary of {theirs}) and the student ({ours}) have different tokenizers, and the "
                "data has no columns for the teacher: use tkd_hf.data.features.tokenize(…, teacher_tokenizer=…)"
            )

    def _check_labels(self):
        columns = getattr(self.train_dataset, "column_names", None)
        if self._needs("labels") and columns and not {"label", "labels", "label_ids", *self.label_names} & set(columns):
            raise ValueError(
                f"objectives={self.args.objectives} need labels, but the data has only {columns}; "
                'without labels, distil with objectives={"logits": 1.0}'
            )

    def _set_signature_columns_if_needed(self):
        # the Trainer would drop every column that the student's forward does not name
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += TEACHER_COLUMNS


class _Means:
    """Means of the objectives over the batches since the last `pop`, and over all processes."""

    def __init__(self):
        self._sums = defaultdict(float)
        self._counts = defaultdict(int)

    def add(self, name: str, value: torch.Tensor, count: int):
        self._sums[name] = self._sums[name] + value.detach() * count
        self._counts[name] += count

    def pop(self, accelerator, prefix: str) -> dict[str, float]:
        means = {}
        for name, total in self._sums.items():
            pair = torch.stack([total.float(), torch.tensor(float(self._counts[name]), device=total.device)])
            total, count = accelerator.reduce(pair, reduction="sum").tolist()
            means[f"{prefix}{name}"] = total / count
        self.__init__()
        return means


def problem_type_of(config) -> str:
    """A configuration's problem type; where it names none, one output is regression, several are classes."""
    return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
