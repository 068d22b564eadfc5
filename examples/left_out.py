"""What studies on texts left out of the training data share: options, the split, the run of a recipe, what is written.

`unseen_sentences.py` and `passes.py` are such. A study says how it splits the rows, and which stages it makes of a
recipe; what is done is skipped.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import yaml
from datasets import Dataset

from family import RECIPES
from family_seeds import run
from tkd_hf.cli.output import announce, write_json
from tkd_hf.data.loading import DataArguments, load_split


def options_of(about: str, name: str, recipe: str, arguments: list[str] | None) -> argparse.Namespace:
    """A study's options, by its docstring, its own name and that of the recipe that it takes its settings from."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / f"{recipe}.yaml", help="its settings are taken")
    parser.add_argument("--data-dir")
    parser.add_argument("--work-dir", type=Path, default=Path("runs", name.replace("_", "-")))
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    return parser.parse_args(arguments)


def carry_out(
    options: argparse.Namespace,
    split: Callable[[Dataset], tuple[Dataset, Dataset]],
    stages: Callable[[dict, str], dict],
) -> Path:
    """Splits the training data of the recipe's task, runs what `stages` makes of the recipe, and gives its folder."""
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    task = recipe["data"]["task"]
    write_split(task, options.data_dir, options.work_dir / "data" / task, split)
    folder = options.work_dir / "run"
    run(stages(recipe, str(folder)), str(options.work_dir / "data"))
    return folder


def write_split(
    task: str, data_dir: str | None, folder: Path, split: Callable[[Dataset], tuple[Dataset, Dataset]]
) -> None:
    """Writes the two parts of a task's training data that are learned from and measured on, if they are not there."""
    if (folder / "validation.parquet").exists():
        return
    announce("sentences are left out")
    rows, _ = load_split(DataArguments(task=task, data_dir=data_dir), "train")
    learned, left_out = split(rows.select_columns(["text", "label"]).rename_column("text", "sentence"))
    folder.mkdir(parents=True, exist_ok=True)
    learned.to_parquet(folder / "train.parquet")
    left_out.to_parquet(folder / "validation.parquet")


def all_of(recipe: dict, name: str) -> list[dict]:
    """The settings of a recipe's stages of that name, in order."""
    return [stage[name] for stage in recipe["stages"] if name in stage]


def write_results(folder: Path, name: str, content: dict, page: str) -> None:
    write_json(folder / f"{name}.json", content)
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
