"""The arguments: `TrainingArguments` with defaults that suit small encoders, and what distillation adds to them."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from .hardware import has_fast_bf16


DEFAULT_OBJECTIVES = {"logits": 0.9, "hard": 0.1}


@dataclass
class FineTuningArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of this field: every field of theirs can be set as ever.

    The defaults are those of the TKD-NLP recipe (AdamW, mixed precision, arXiv 2405.11704) with a linear warm-up, and
    batches of similar length, which spares a third of the time on sentences. Of checkpoints, which would fill a disk in
    a few recipes, the last two are kept; `save_total_limit=None` keeps all.

    Example:

    ```python
    >>> from tkd_hf import FineTuningArguments
    >>> FineTuningArguments("runs/teacher", report_to="none").per_device_train_batch_size
    64

    ```
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training data."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Examples a step on one device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Examples a step in evaluation."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warm-up; below 1, a share of all steps."}
    )
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "Batches of similar length waste less on padding."}
    )
    save_total_limit: int | None = field(
        default=2,
        metadata={
            "help": "Checkpoints kept: the newest, as the last may be cut off, and the best, if that is gone back to. "
            "Each is three times the size of the model."
        },
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Train in bfloat16. By default where the device computes in it natively."}
    )
    disable_tqdm: bool | None = field(
        default=False, metadata={"help": "Hide the progress bar; it does not follow the log level of transformers."}
    )

    def __post_init__(self):
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_fast_bf16(use_cpu=self.use_cpu)
        if not torch.accelerator.is_available():
            self.use_cpu = True  # which transformers wants to hear before it takes bf16
            self.dataloader_pin_memory = False  # torch would warn at every epoch
        super().__post_init__()


@dataclass
class DistillationTrainingArguments(FineTuningArguments):
    """What a `DistillationTrainer` needs to know beside the ordinary training arguments.

    The loss is the sum over `objectives` of weight x objective; `tkd_hf.objectives.OBJECTIVES` lists their names.

    Raises:
        ValueError: for a temperature that is not positive, an unknown objective or divergence, a negative weight, or
            weights that are all 0; the message names the offending value and the way out.

    Example:

    ```python
    >>> from tkd_hf import DistillationTrainingArguments
    >>> args = DistillationTrainingArguments("runs/x", temperature=2.0, objectives={"logits": 1.0}, report_to="none")
    >>> args.objectives
    {'logits': 1.0}

    ```
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "objectives", "final_objectives"]

    objectives: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": "Weight of each objective, by name. The default is 0.9 for the teacher's logits and 0.1 for the "
            'labels ("hard"); `tkd-hf distill` takes {"logits": 1.0} where the data has no labels.'
        },
    )
    final_objectives: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "Weights at the end of training, reached linearly. By default they stay."},
    )
    temperature: float = field(
        default=2.0,
        metadata={
            "help": "Softens both distributions before they are compared. The default is the middle of what "
            "Hinton et al. (2015) found to work for small students."
        },
    )
    final_temperature: float | None = field(
        default=None, metadata={"help": "Temperature at the end of training, reached linearly. By default it stays."}
    )
    divergence: str = field(
        default="forward_kl",
        metadata={
            "help": "How the objective 'logits' compares: forward_kl, reverse_kl, jensen_shannon, or mse of the logits."
        },
    )
    confidence_weighting: bool = field(
        default=False, metadata={"help": "In 'logits', weigh each example by the teacher's confidence in its answer."}
    )
    top_k: int | None = field(
        default=None,
        metadata={"help": "In 'logits', tell apart only the teacher's likeliest classes; for vocabularies."},
    )
    layer_map: str | None = field(
        default=None,
        metadata={
            "help": "Teacher layer of each student layer: uniform, last, skip, or a list from 0 such as 1,3,5. By "
            "default the layers that the student was built from, or uniform where that is not known."
        },
    )
    relation_heads: int | None = field(
        default=None,
        metadata={
            "help": "Parts that 'relations' cuts the heads into; must divide both widths. By default the most, up to "
            "the teacher's heads, that do."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.objectives is None:
            self.objectives = dict(DEFAULT_OBJECTIVES)
        self._check_weights("objectives")
        if self.final_objectives is not None:
            self._check_weights("final_objectives")
        self._check_schedule()
        self._check_options()

    def _check_weights(self, name: str):
        from .objectives import OBJECTIVES

        weights = getattr(self, name)
        if not isinstance(weights, dict):
            raise ValueError(f'{name}={weights!r} are not weights by name, such as {{"logits": 1.0}}')
        for objective, weight in weights.items():
            if objective not in OBJECTIVES:
                raise ValueError(
                    f"unknown objective {objective!r} (weight {weight}); there are {', '.join(OBJECTIVES)}"
                )
            if weight < 0:
                raise ValueError(f"{name}[{objective!r}]={weight} is negative; a weight of 0 turns an objective off")
        if not any(weights.values()):
            raise ValueError(f"{name}={weights} leave nothing to learn; give one a positive weight")

    def _check_schedule(self):
        for name in ("temperature", "final_temperature"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be positive; 1 leaves the logits as they are")

    def _check_options(self):
        from .objectives.divergences import DIVERGENCES

        divergences = [*DIVERGENCES, "mse"]
        if self.divergence not in divergences:
            raise ValueError(f"unknown divergence {self.divergence!r}; there are {', '.join(divergences)}")
        for name in ("top_k", "relation_heads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1; leave it out for the default")
