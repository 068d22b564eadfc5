"""The trainings that are compared: ours in several variants, and a plain Trainer. Other libraries are in peers.py.

Each contender trains the student for the clock's steps and returns it. All start from the same weights and have the
same examples, batch size, optimizer, schedule and loss: 0.9 × softened logits of the teacher, 0.1 × labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from clock import Clock
from tkd_hf import DistillationTrainer, DistillationTrainingArguments, SoftLabels


TEMPERATURE, SOFT_WEIGHT, LEARNING_RATE, WARMUP = 2.0, 0.9, 1e-4, 0.1


@dataclass(frozen=True)
class Setup:
    """What a contender gets.

    Args:
        work: folder with `student` (a TKD), `student-bert` (the same weights as a BERT) and the soft labels.
        teacher: folder of the teacher.
        rows: tokenized examples with `labels`.
        batch_size: examples per step.
        bf16: compute in bfloat16 with weights in float32.
        seed: seed of the order of examples and of dropout.
        clock: measures the training; the contender tells it which models to watch.
    """

    work: Path
    teacher: str
    rows: Dataset
    batch_size: int
    bf16: bool
    seed: int
    clock: Clock

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    def load(self, model: str | Path, **config: float) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(model, **config).to(self.device)

    @property
    def collate(self) -> DataCollatorWithPadding:
        return DataCollatorWithPadding(AutoTokenizer.from_pretrained(self.teacher))

    def arguments(self) -> dict:
        """Return the arguments of a Trainer; all others are its defaults."""
        return {
            "output_dir": str(self.work / "trainer"),
            "max_steps": self.clock.total_steps,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": LEARNING_RATE,
            "warmup_steps": WARMUP,
            "bf16": self.bf16,
            "seed": self.seed,
            "use_cpu": self.device == "cpu",
            "dataloader_pin_memory": self.device != "cpu",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }


def ours(setup: Setup, live: bool = False, dropout: float = 0.0, **arguments) -> PreTrainedModel:
    """Train with the defaults of tkd-hf: cached soft labels, batches of similar length, no dropout."""
    student = setup.load(setup.work / "student", hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    teacher = setup.load(setup.teacher) if live else None
    rows = setup.rows if live else SoftLabels.load(setup.work / "labels.safetensors").attach(setup.rows)
    trainer = DistillationTrainer(
        student,
        DistillationTrainingArguments(**setup.arguments() | {"temperature": TEMPERATURE} | arguments),
        teacher_model=teacher,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(setup.teacher),
    )
    setup.clock.watch(student, trainer.teacher.model if live else None)
    trainer.train()
    return student


def ours_live(setup: Setup) -> PreTrainedModel:
    """Run the teacher on each batch."""
    return ours(setup, live=True)


def ours_with_dropout(setup: Setup) -> PreTrainedModel:
    """Train with the teacher's dropout, as the other contenders do."""
    return ours(setup, dropout=0.1)


def ours_random(setup: Setup) -> PreTrainedModel:
    """Draw batches at random, as the other contenders do; only padding is saved."""
    return ours(setup, train_sampling_strategy="random")


def ours_random_live(setup: Setup) -> PreTrainedModel:
    return ours(setup, live=True, train_sampling_strategy="random")


def ours_checkpointing(setup: Setup) -> PreTrainedModel:
    return ours(setup, gradient_checkpointing=True)


def ours_accumulating(setup: Setup) -> PreTrainedModel:
    return ours(setup, per_device_train_batch_size=setup.batch_size // 4, gradient_accumulation_steps=4)


def ours_8bit(setup: Setup) -> PreTrainedModel:
    return ours(setup, optim="adamw_bnb_8bit")


class PlainTrainer(Trainer):
    """The usual way: `compute_loss` runs the teacher."""

    def __init__(self, *args, teacher: PreTrainedModel, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval()

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        with torch.no_grad():
            teacher_logits = self.teacher(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        outputs = model(**inputs)
        soft_loss = functional.kl_div(
            (outputs.logits / TEMPERATURE).log_softmax(-1),
            (teacher_logits / TEMPERATURE).softmax(-1),
            reduction="batchmean",
        )
        loss = SOFT_WEIGHT * TEMPERATURE**2 * soft_loss + (1 - SOFT_WEIGHT) * outputs.loss
        return (loss, outputs) if return_outputs else loss


def plain(setup: Setup) -> PreTrainedModel:
    """Train with a Trainer whose loss runs the teacher."""
    student, teacher = setup.load(setup.work / "student-bert"), setup.load(setup.teacher)
    trainer = PlainTrainer(
        student,
        TrainingArguments(**setup.arguments()),
        teacher=teacher,
        train_dataset=setup.rows,
        data_collator=setup.collate,
    )
    setup.clock.watch(student, teacher)
    trainer.train()
    return student


OURS: dict[str, Callable[[Setup], PreTrainedModel]] = {
    "ours": ours,
    "ours, with dropout": ours_with_dropout,
    "ours, random batches": ours_random,
    "ours, live teacher": ours_live,
    "ours, live teacher, random batches": ours_random_live,
    "ours, gradient checkpointing": ours_checkpointing,
    "ours, accumulation over 4": ours_accumulating,
    "ours, 8-bit AdamW": ours_8bit,
}
