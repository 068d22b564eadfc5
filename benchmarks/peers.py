"""The libraries that training is compared with, each used as its documentation says.

    pip install textbrewer==0.2.1.post1 nvidia-modelopt==0.47.0

They are imported when they run; a library that is not installed is skipped.
"""

from contextlib import nullcontext

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments, get_linear_schedule_with_warmup

from contenders import LEARNING_RATE, SOFT_WEIGHT, TEMPERATURE, WARMUP, Setup


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


# contender -> the module it needs, and its training
PEERS = {
    "TextBrewer": ("textbrewer", textbrewer),
    "TextBrewer, as documented": ("textbrewer", textbrewer_128),
    "Model-Optimizer": ("modelopt", modelopt),
}
