"""Ours, as installed, and a plain Trainer with a live teacher. The peers are in peers.py.

Each contender trains the student for the clock's steps and returns it. All have the same weights to start from, the
same examples, batch size, optimizer, schedule and loss: 0.9 of the teacher's softened answers, 0.1 of the labels.
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
from tkd_hf.stages.student import dropouts


TEMPERATURE, SOFT, LEARNING_RATE, WARMUP = 2.0, 0.9, 1e-4, 0.1


@dataclass(frozen=True)
class Setup:
    """What a contender is given.

    Args:
        work: holds `teacher`, `student` (TKD), `student-bert` (the same as a BERT) and the soft labels.
        teacher: folder.
        rows: tokenised examples with `labels`.
        batch_size: examples a step.
        bf16: compute in bfloat16, weights in float32.
        seed: of the order and of dropout.
        clock: what to watch.
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

    def load(self, model: str, **config: float) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(model, **config).to(self.device)

    @property
    def collate(self) -> DataCollatorWithPadding:
        return DataCollatorWithPadding(AutoTokenizer.from_pretrained(self.teacher))

    def arguments(self) -> dict:
        """For a Trainer; what is not named is its default."""
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
    """Defaults of tkd-hf: soft labels from the cache, batches of similar length, no dropout."""
    student = setup.load(setup.work / "student", **dropouts(dropout))
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
    """The teacher runs on each batch."""
    return ours(setup, live=True)


def ours_with_dropout(setup: Setup) -> PreTrainedModel:
    """With the teacher's dropout, which the others' students have."""
    return ours(setup, dropout=0.1)


def ours_random(setup: Setup) -> PreTrainedModel:
    """Batches drawn at random, as the peers' are: what is won is padding that is not computed."""
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
    """What is usually written: the teacher runs in `compute_loss`."""

    def __init__(self, *args, teacher: PreTrainedModel, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval()

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        with torch.no_grad():
            wanted = self.teacher(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        outputs = model(**inputs)
        soft = functional.kl_div(
            (outputs.logits / TEMPERATURE).log_softmax(-1), (wanted / TEMPERATURE).softmax(-1), reduction="batchmean"
        )
        loss = SOFT * TEMPERATURE**2 * soft + (1 - SOFT) * outputs.loss
        return (loss, outputs) if return_outputs else loss


def plain(setup: Setup) -> PreTrainedModel:
    """A Trainer whose loss asks the teacher."""
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
}
MEMORY: dict[str, Callable[[Setup], PreTrainedModel]] = {
    "ours, gradient checkpointing": ours_checkpointing,
    "ours, accumulation over 4": ours_accumulating,
    "ours, 8-bit AdamW": ours_8bit,
}
