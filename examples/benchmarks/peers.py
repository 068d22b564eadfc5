"""The peers, each as its own documentation says, imported where it runs: they need not be installed."""

from contextlib import nullcontext

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments, get_linear_schedule_with_warmup

from contenders import LEARNING_RATE, SOFT, TEMPERATURE, WARMUP, Setup


def textbrewer(setup: Setup, longest: int | None = None) -> PreTrainedModel:
    """GeneralDistiller, as in the notebook for SST-2 of its repository, on logits; batches padded to their longest.

    It knows float16 only (by apex), so bfloat16 is an autocast around it; its loss lacks the square of the temperature.
    """
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    student, teacher = setup.load(setup.work / "student-bert"), setup.load(setup.teacher)
    setup.clock.watch(student, teacher)
    collate = setup.collate
    if longest:
        collate.padding, collate.max_length = "max_length", longest
    torch.manual_seed(setup.seed)
    steps = setup.clock.total_steps

    def adaptor(batch, outputs):
        return {"logits": outputs.logits, "losses": [outputs.loss]}

    distiller = GeneralDistiller(
        TrainingConfig(device=setup.device, output_dir=str(setup.work / "textbrewer"), ckpt_steps=steps),
        DistillationConfig(temperature=TEMPERATURE, kd_loss_weight=SOFT * TEMPERATURE**2, hard_label_weight=1 - SOFT),
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
            batch_postprocessor=dict,  # a batch of transformers 5 is no dict, and would be taken for a sequence
        )
    return student


def textbrewer_128(setup: Setup) -> PreTrainedModel:
    """Every example padded to 128 tokens, as that notebook does."""
    return textbrewer(setup, longest=128)


class ModelOptTrainer(Trainer):
    """The distillation loss of a converted model, as the guide of Model-Optimizer writes it."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = self.accelerator.unwrap_model(model).compute_kd_loss(student_loss=outputs.loss)
        return (loss, outputs) if return_outputs else loss


def modelopt(setup: Setup) -> PreTrainedModel:
    """The distillation wrapper; its KDTrainer is for causal language models."""
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
                    "loss_balancer": distill.StaticLossBalancer(kd_loss_weight=SOFT),
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
    wrapped.__dict__.pop("forward", None)  # accelerate's autocast around the wrapped model's, which export leaves there
    return distill.export(wrapped)


# what a contender needs beside this package, and how it is called
PEERS = {
    "TextBrewer": ("textbrewer", textbrewer),
    "TextBrewer, as documented": ("textbrewer", textbrewer_128),
    "Model-Optimizer": ("modelopt", modelopt),
}
