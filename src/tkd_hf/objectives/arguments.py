"""The training arguments: `TrainingArguments` with defaults for small encoders, and the options of distillation."""

import json
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..core.hardware import has_fast_bf16
from . import OBJECTIVES
from .divergences import DIVERGENCES


DEFAULT_OBJECTIVES = {"logits": 0.9, "hard": 0.1}


@dataclass
class FineTuningArguments(TrainingArguments):
    """`transformers.TrainingArguments` with defaults for small encoders. Every other field works as usual.

    The defaults follow the TKD-NLP recipe (arXiv 2405.11704): AdamW and mixed precision, with a linear warm-up. Batches
    group examples of similar length, which saves padding. Only the last two checkpoints are kept, because one takes
    three times the size of the model; `save_total_limit=None` keeps all.

    Watch out for these: the learning rate of 1e-4 suits students of a few layers; full-size encoders often need 2e-5 to
    5e-5. And bf16 is chosen by the device, so pass `bf16=False` to compare runs on different machines.

    Example:

    ```python
    >>> from tkd_hf import FineTuningArguments
    >>> FineTuningArguments("runs/teacher", report_to="none").per_device_train_batch_size
    64

    ```
    """

    output_dir: str = field(default="trainer_output", metadata={"help": "Folder of the run (trainer_output)."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW (0.0001)."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Number of passes over the training data (3)."})
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Examples per training step on one device (64)."}
    )
    per_device_eval_batch_size: int = field(
        default=64, metadata={"help": "Examples per evaluation step on one device (64)."}
    )
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warm-up; below 1, a share of all steps (0.1)."}
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "Order of the training examples: random, sequential or group_by_length (group_by_length)."},
    )
    save_total_limit: int | None = field(
        default=2,
        metadata={
            "help": "Number of checkpoints kept, the newest first; each takes three times the size of the model. The "
            "second is a reserve if writing the newest is interrupted (2)."
        },
    )
    bf16: bool | None = field(  # type: ignore[assignment]  # None until __post_init__ chooses by the device
        default=None, metadata={"help": "Train in bfloat16 (if the device computes in it natively)."}
    )
    disable_tqdm: bool | None = field(
        default=False, metadata={"help": "Hide the progress bar, whatever the log level of transformers (false)."}
    )

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_fast_bf16(use_cpu=self.use_cpu)
        if not torch.accelerator.is_available():
            self.use_cpu = True  # transformers accepts bf16 on a CPU only with this
            self.dataloader_pin_memory = False  # torch warns in every epoch otherwise
        super().__post_init__()


@dataclass
class DistillationTrainingArguments(FineTuningArguments):
    """The arguments of a `DistillationTrainer`: `FineTuningArguments` plus objectives, temperature and layers.

    The loss is the sum over `objectives` of weight x objective. `tkd_hf.objectives` lists the objectives and says which
    to choose. The defaults need only soft labels and labels: 0.9 for the teacher's logits and 0.1 for the labels. For
    data without labels pass `objectives={"logits": 1.0}`.

    If the student learns too little, train for more epochs first. A higher temperature shows it more of the teacher's
    doubts; Hinton et al. 2015 (arXiv 1503.02531) found 2.5 to 4 best for their smallest students. Feature objectives
    (`hidden`, `relations`, …) run the teacher on every batch and are best used in a stage of their own.

    Raises:
        ValueError: if the temperature is not positive, an objective or divergence is unknown, a weight is negative, or
            all weights are 0. The message names the value and what to write instead.

    Example:

    ```python
    >>> from tkd_hf import DistillationTrainingArguments
    >>> args = DistillationTrainingArguments("runs/x", temperature=2.0, objectives={"logits": 1.0}, report_to="none")
    >>> args.objectives
    {'logits': 1.0}

    ```
    """

    objectives: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": 'Weight of each objective by name ({"logits": 0.9, "hard": 0.1}: the teacher\'s logits and the '
            'labels; `tkd-hf distill` uses {"logits": 1.0} if the data has no labels). The labels get a small '
            "weight, because the teacher's distribution tells more about an example than its label does."
        },
    )
    final_objectives: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "Weight of each objective at the end of training, reached linearly (no change)."},
    )
    temperature: float = field(
        default=2.0,
        metadata={
            "help": "Temperature that softens both distributions before they are compared (2.0). The loss is "
            "multiplied by its square, so that the weight of the loss does not depend on it."
        },
    )
    final_temperature: float | None = field(
        default=None, metadata={"help": "Temperature at the end of training, reached linearly (no change)."}
    )
    divergence: str = field(
        default="forward_kl",
        metadata={
            "help": "Divergence of the objective 'logits': forward_kl, the usual choice, reverse_kl, "
            "jensen_shannon, or mse of the logits (forward_kl)."
        },
    )
    confidence_weighting: bool = field(
        default=False,
        metadata={
            "help": "In the objective 'logits', weigh each example by the probability of the "
            "teacher's prediction (false)."
        },
    )
    top_k: int | None = field(
        default=None,
        metadata={
            "help": "In the objective 'logits', number of likeliest classes to keep apart, with all others merged; for "
            "vocabularies (all classes)."
        },
    )
    layer_map: str | None = field(
        default=None,
        metadata={
            "help": "Teacher layer for each student layer: uniform, last, skip, or a list of indices from 0 such as "
            "1,3,5 (the layers that the student was built from; uniform if they are unknown)."
        },
    )
    relation_heads: int | None = field(
        default=None,
        metadata={
            "help": "Number of parts that the objective 'relations' splits the joined heads into; must divide both "
            "query widths (the largest divisor up to the teacher's number of heads)."
        },
    )

    def __post_init__(self) -> None:
        for name in ("objectives", "final_objectives"):
            value = getattr(self, name)
            if isinstance(value, str) and value.startswith("{"):  # as the command line gives it
                setattr(self, name, json.loads(value))
        super().__post_init__()
        if self.objectives is None:
            self.objectives = dict(DEFAULT_OBJECTIVES)
        check_weights("objectives", self.objectives)
        if self.final_objectives is not None:
            check_weights("final_objectives", self.final_objectives)
        self._check_schedule()
        self._check_options()

    @property
    def objective_names(self) -> tuple[str, ...]:
        """Names of the objectives that have a weight at the start or the end of training."""
        return tuple(self.objective_weights)

    @property
    def objective_weights(self) -> dict[str, tuple[float, float]]:
        """Weight at the start and at the end of training, of each objective that has either, by name."""
        first = check_weights("objectives", self.objectives)
        last = first if self.final_objectives is None else check_weights("final_objectives", self.final_objectives)
        weights = {name: (first.get(name, 0.0), last.get(name, 0.0)) for name in OBJECTIVES}
        return {name: pair for name, pair in weights.items() if any(pair)}

    def _check_schedule(self) -> None:
        for name in ("temperature", "final_temperature"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be positive; 1 does not change the logits")

    def _check_options(self) -> None:
        divergences = [*DIVERGENCES, "mse"]
        if self.divergence not in divergences:
            raise ValueError(f"unknown divergence {self.divergence!r}; choose from {', '.join(divergences)}")
        for name in ("top_k", "relation_heads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1; leave it out for the default")


def check_weights(name: str, weights: object) -> dict[str, float]:
    """Return the weights of objectives if they are valid.

    Args:
        name: name of the training argument, for the error message.
        weights: its value.

    Raises:
        ValueError: if they are not weights by name, an objective is unknown, a weight is negative, or all are 0.
    """
    if not isinstance(weights, dict):
        raise ValueError(f'{name}={weights!r} are not weights by name; write for example {{"logits": 1.0}}')
    for objective, weight in weights.items():
        if objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {objective!r} (weight {weight}); choose from {', '.join(OBJECTIVES)}")
        if weight < 0:
            raise ValueError(f"{name}[{objective!r}]={weight} is negative; a weight of 0 turns an objective off")
    if not any(weights.values()):
        raise ValueError(f"{name}={weights} leave nothing to learn; give at least one objective a positive weight")
    return weights


@dataclass
class PretrainingArguments(DistillationTrainingArguments):
    """Training arguments for `pretrain`: `DistillationTrainingArguments` with other defaults and a teacher encoder.

    Raises:
        ValueError: for objectives that need a teacher if none is given, or a probability outside (0, 1).

    Example:

    ```python
    >>> from tkd_hf.commands.pretrain import PretrainingArguments
    >>> PretrainingArguments("runs/base", report_to="none").objectives
    {'hard': 1.0}
    >>> PretrainingArguments("runs/base", teacher="org/encoder", report_to="none").objectives
    {'relations': 1.0, 'hard': 1.0}

    ```
    """

    teacher: str | None = field(
        default=None,
        metadata={"help": "Encoder to learn from, with or without a masked-LM head: folder or Hub id (none)."},
    )
    objectives: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": 'Weight of each objective by name ({"hard": 1.0}, that is masked language modelling; with a '
            'teacher {"relations": 1.0, "hard": 1.0}).'
        },
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of tokens to mask and predict (0.15)."})
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of AdamW (0.0005)."})
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "How batches are drawn (random). Grouping by length is useless, since all have the same length."
        },
    )

    def __post_init__(self) -> None:
        if self.objectives is None:
            self.objectives = {"relations": 1.0, "hard": 1.0} if self.teacher else {"hard": 1.0}
        super().__post_init__()
        teacher_objectives = [name for name in self.objective_names if OBJECTIVES[name].needs_teacher]
        if teacher_objectives and not self.teacher:
            raise ValueError(f"objectives {', '.join(teacher_objectives)} need a teacher; name one, or leave them out")
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"mlm_probability={self.mlm_probability} must be between 0 and 1; 0.15 is usual")

    @property
    def predicts_tokens(self) -> bool:
        """Whether tokens are masked and predicted; otherwise the student learns only from the teacher's features."""
        return bool({"hard", "logits"} & set(self.objective_names))
