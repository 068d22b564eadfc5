"""The trainings that are compared: ours in several variants, a plain Trainer, and two other libraries.

    pip install textbrewer==0.2.1.post1 nvidia-modelopt==0.47.0

The other libraries are used as their documentation says. They are imported when they run; one that is not installed is
skipped.

Each contender trains the student for the clock's steps and returns it. All start from the same weights and have the
same examples, batch size, optimizer, schedule and loss: 0.9 × softened logits of the teacher, 0.1 × labels.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from clock import Clock
from tkd_hf import DistillationTrainer, DistillationTrainingArguments, SoftLabels


TEMPERATURE, SOFT_WEIGHT, LEARNING_RATE, WARMUP = 2.0, 0.9, 1e-4, 0.1


@dataclass(frozen=True)
class Setup:
    """Models, data and settings of a contender.

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


def textbrewer(setup: Setup, padded_to: int | None = None) -> PreTrainedModel:
    """Train with GeneralDistiller on logits, as the SST-2 notebook in its repository does.

    It supports only float16 (through apex), so bfloat16 is an autocast around it. Its loss lacks the factor of the
    squared temperature, which the weight adds.
    """
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    student, teacher = setup.load(setup.work / "student-bert"), setup.load(setup.teacher)
    setup.clock.watch(student, teacher)
    collate = setup.collate
    if padded_to:
        collate.padding, collate.max_length = "max_length", padded_to
    torch.manual_seed(setup.seed)
    steps = setup.clock.total_steps

    def adaptor(batch, outputs):
        return {"logits": outputs.logits, "losses": [outputs.loss]}

    distiller = GeneralDistiller(
        TrainingConfig(device=setup.device, output_dir=str(setup.work / "textbrewer"), ckpt_steps=steps),
        DistillationConfig(
            temperature=TEMPERATURE, kd_loss_weight=SOFT_WEIGHT * TEMPERATURE**2, hard_label_weight=1 - SOFT_WEIGHT
        ),
        teacher,
        student,
        adaptor,
        adaptor,
    )
    with distiller, torch.autocast(setup.device, torch.bfloat16) if setup.bf16 else nullcontext():
        distiller.train(
            torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0),
            DataLoader(setup.rows, setup.batch_size, shuffle=True, collate_fn=collate),
            num_steps=steps,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": int(WARMUP * steps), "num_training_steps": steps},
            max_grad_norm=1.0,
            batch_postprocessor=dict,  # TextBrewer takes a BatchEncoding of transformers 5 for a sequence
        )
    return student


def textbrewer_128(setup: Setup) -> PreTrainedModel:
    """Pad every example to 128 tokens, as that notebook does."""
    return textbrewer(setup, padded_to=128)


class ModelOptTrainer(Trainer):
    """Compute the loss of a converted model as the guide of Model-Optimizer does."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = self.accelerator.unwrap_model(model).compute_kd_loss(student_loss=outputs.loss)
        return (loss, outputs) if return_outputs else loss


def modelopt(setup: Setup) -> PreTrainedModel:
    """Train with its distillation wrapper; its KDTrainer supports only causal language models."""
    import modelopt.torch.distill as distill

    student, teacher = setup.load(setup.work / "student-bert"), setup.load(setup.teacher)
    wrapped = distill.convert(
        student,
        mode=[
            (
                "kd_loss",
                {
                    "teacher_model": teacher,
                    "criterion": {
                        ("classifier", "classifier"): distill.LogitsDistillationLoss(TEMPERATURE, reduction="batchmean")
                    },
                    "loss_balancer": distill.StaticLossBalancer(kd_loss_weight=SOFT_WEIGHT),
                },
            )
        ],
    )
    trainer = ModelOptTrainer(
        wrapped,
        TrainingArguments(**setup.arguments()),
        train_dataset=setup.rows,
        data_collator=setup.collate,
    )
    setup.clock.watch(wrapped, teacher)
    trainer.train()
    wrapped.__dict__.pop("forward", None)  # accelerate's autocast, which export would leave in the student
    return distill.export(wrapped)


# other library -> the module it needs, and its training
PEERS: dict[str, tuple[str, Callable[[Setup], PreTrainedModel]]] = {
    "TextBrewer": ("textbrewer", textbrewer),
    "TextBrewer, as documented": ("textbrewer", textbrewer_128),
    "Model-Optimizer": ("modelopt", modelopt),
}
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
CONTENDERS = OURS | {"plain Trainer": plain} | {name: train for name, (_, train) in PEERS.items()}
OTHERS = ("plain Trainer", *PEERS)
