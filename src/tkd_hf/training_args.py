"""The arguments: `TrainingArguments` with defaults that suit small encoders, and what distillation adds to them."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from .hardware import has_fast_bf16


@dataclass
class FineTuningArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of this field: every field of theirs can be set as ever.

    The defaults are those of the TKD-NLP recipe (AdamW, mixed precision, arXiv 2405.11704) with a linear warm-up, and
    batches of similar length, which spares a third of the time on sentences.

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
    bf16: bool | None = field(
        default=None, metadata={"help": "Train in bfloat16. By default where the device computes in it natively."}
    )

    def __post_init__(self):
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_fast_bf16(use_cpu=self.use_cpu)
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # torch would warn at every epoch
        super().__post_init__()


@dataclass
class DistillationTrainingArguments(FineTuningArguments):
    """What a `DistillationTrainer` needs to know beside the ordinary training arguments.

    The loss is the sum over `objectives` of weight x objective; `tkd_hf.objectives.OBJECTIVES` lists their names.

    Raises:
        ValueError: for a temperature that is not positive, an unknown objective, a negative weight, or weights that
            are all 0; the message names the offending value and the way out.

    Example:

    ```python
    >>> from tkd_hf import DistillationTrainingArguments
    >>> args = DistillationTrainingArguments("runs/x", temperature=2.0, objectives={"logits": 1.0}, report_to="none")
    >>> args.objectives
    {'logits': 1.0}

    ```
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "objectives"]

    temperature: float = field(
        default=2.0,
        metadata={
            "help": "Softens both distributions before they are compared. The default is the middle of what "
            "Hinton et al. (2015) found to work for small students."
        },
    )
    objectives: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": "Weight of each objective, by name. The default is 0.9 for the teacher's logits and 0.1 for the "
            'labels ("hard"); without labels, {"logits": 1.0}.'
        },
    )

    def __post_init__(self):
        super().__post_init__()
        from .objectives import OBJECTIVES

        if self.objectives is None:
            self.objectives = {"logits": 0.9, "hard": 0.1}
        if not isinstance(self.objectives, dict):
            raise ValueError(f'objectives={self.objectives!r} are not weights by name, such as {{"logits": 1.0}}')
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be positive; 1 leaves the logits as they are")
        for name, weight in self.objectives.items():
            if name not in OBJECTIVES:
                raise ValueError(f"unknown objective {name!r} (weight {weight}); there are {', '.join(OBJECTIVES)}")
            if weight < 0:
                raise ValueError(f"objectives[{name!r}]={weight} is negative; a weight of 0 turns an objective off")
        if not any(self.objectives.values()):
            raise ValueError(f"objectives={self.objectives} leave nothing to learn; give one a positive weight")
