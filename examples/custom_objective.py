"""Train a student with an objective of your own.

    python examples/quickstart.py         # fine-tunes the teacher that this example uses
    python examples/custom_objective.py

An objective is a class: it gets what teacher and student computed for a batch, and returns a number to minimise. This
one compares logits without their mean, since adding the same number to all logits of an example changes no prediction.
"""

import argparse

import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tkd_hf import (
    DistillationTrainer,
    DistillationTrainingArguments,
    Objective,
    ObjectiveSetup,
    Signals,
    TKDForSequenceClassification,
    register_objective,
    tokenize,
)


@register_objective("centred_logits")
class CentredLogits(Objective):
    """Squared error between the logits of student and teacher, each example's mean subtracted."""

    needs_teacher, needs_labels = True, False

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "CentredLogits":
        """Return the objective; `setup` holds the training arguments and both configurations."""
        return cls()

    def forward(self, student: Signals, teacher: Signals, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean over the batch; `batch` holds the token ids, the attention mask and the labels."""
        difference = student.logits.float() - teacher.logits.float()
        return (difference - difference.mean(dim=-1, keepdim=True)).square().mean()


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="runs/quickstart/teacher-0", help="Teacher: folder or Hub id.")
    parser.add_argument("--data", default="runs/quickstart/movie-reviews", help="Folder with train and validation.")
    parser.add_argument("--layers", type=int, default=3, help="Layers of the student (3).")
    parser.add_argument("--output-dir", default="runs/custom-objective", help="Folder for the student.")
    options = parser.parse_args(arguments)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)

    def features(split: str) -> Dataset:
        rows = load_dataset(options.data, split=split)
        codes = [teacher.config.label2id[name] for name in rows["label"]]
        return tokenize(rows.remove_columns("label").add_column("label", codes), tokenizer, max_length=64)

    trainer = DistillationTrainer(
        model=TKDForSequenceClassification.from_teacher(teacher, num_hidden_layers=options.layers),
        teacher_model=teacher,
        args=DistillationTrainingArguments(
            options.output_dir,
            objectives={"centred_logits": 1.0, "hard": 0.1},
            num_train_epochs=1,
            report_to="none",
        ),
        train_dataset=features("train"),
        eval_dataset=features("validation"),
        processing_class=tokenizer,
        compute_metrics=lambda output: {"accuracy": (output.predictions.argmax(-1) == output.label_ids).mean().item()},
    )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()
    print({name: round(value, 3) for name, value in metrics.items()})
    return metrics


if __name__ == "__main__":
    main()
