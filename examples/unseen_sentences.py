"""How two layers learn SST-2 best, measured on sentences of which neither they nor their teacher saw a phrase.

    tkd-hf run examples/recipes/tkd-base.yaml && python examples/unseen_sentences.py --data-dir DATA

SST-2 trains on the phrases of sentences and validates on whole sentences of others, so that phrases left out at random
say little: most of their words were seen in longer ones. Here whole sentences are left out of the training data with
all of their phrases. DATA holds `sst2/train.parquet` with the Hub's columns; without it they come from the Hub. A
teacher and the features of two layers are made once; what is then varied is how the two layers learn the answers. What
is done is skipped, and the table goes into `<results-dir>/unseen_sentences.{json,md}`.
"""

import argparse
import random
from pathlib import Path

import yaml

from family import RECIPES, stages_of
from family_seeds import run
from tkd_hf.cli.output import announce, write_json
from tkd_hf.data.loading import DataArguments, load_split


SENTENCES, PHRASES, WORDS = 900, 10_000, 8  # left out, learned from, and what is long enough to be a sentence
SEED = 7  # of the split
# of the answers' stage, by the name of its folder; six passes over the phrases are as many steps as the last has
VARIANTS = {
    "distill-2": ("three passes", {}),
    "distill-3": ("six passes", {"num_train_epochs": 6}),
    "distill-4": ("as many steps, neighbours too", {"max_steps": 1878}),
}
COMMAND = "python examples/unseen_sentences.py --data-dir DATA"


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "tkd-nlp-sst2.yaml", help="its settings are taken")
    parser.add_argument("--data-dir")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/unseen-sentences"))
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    options = parser.parse_args(arguments)

    write_split(options.data_dir, options.work_dir / "data" / "sst2")
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    run(two_layers_of(recipe, str(options.work_dir / "run")), str(options.work_dir / "data"))
    content = {"command": COMMAND, **measured(options.work_dir / "run")}
    write_json(options.results_dir / "unseen_sentences.json", content)
    (options.results_dir / "unseen_sentences.md").write_text(markdown(content), encoding="utf-8")


def write_split(data_dir: str | None, folder: Path) -> None:
    """Sentences as validation data, and as training data some of the phrases that are in none of them."""
    if (folder / "validation.parquet").exists():
        return
    announce("sentences are left out with all of their phrases")
    rows, _ = load_split(DataArguments(task="sst2", data_dir=data_dir), "train")
    rows = rows.select_columns(["text", "label"]).rename_column("text", "sentence")
    phrases = [" ".join(text.split()) for text in rows["sentence"]]
    draw = random.Random(SEED)
    held_out = draw.sample(sentences(phrases), SENTENCES)
    theirs = in_one(held_out)
    first = {phrase: row for row, phrase in reversed(list(enumerate(phrases)))}
    others = [row for row, phrase in enumerate(phrases) if f" {phrase} " not in theirs]
    folder.mkdir(parents=True, exist_ok=True)
    rows.select(draw.sample(others, PHRASES)).to_parquet(folder / "train.parquet")
    rows.select([first[sentence] for sentence in held_out]).to_parquet(folder / "validation.parquet")


def sentences(phrases: list[str]) -> list[str]:
    """The phrases that are part of no longer one, the longest first."""
    found, seen = [], ""
    for phrase in sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase)):
        if len(phrase.split()) >= WORDS and f" {phrase} " not in seen:
            found.append(phrase)
            seen += in_one([phrase])
    return found


def in_one(texts: list[str]) -> str:
    """All texts in one, in which a phrase with a space on either side is found at borders of words alone."""
    return "".join(f" {text} \n" for text in texts)


def two_layers_of(recipe: dict, folder: str) -> dict:
    """The recipe's teacher and two layers, of which the answers' stage is run in every variant."""
    finetune, augment = (next(stage for stage in recipe["stages"] if name in stage) for name in ("finetune", "augment"))
    _, answers, features, _ = (stage["distill"] for stage in recipe["stages"] if "distill" in stage)
    first, second, last = (
        {"distill": answers | settings | {"student": f"{folder}/distill"}} for _, settings in VARIANTS.values()
    )
    stages = [finetune, {"distill": features}, first, second, augment, last]
    return {"model": recipe["model"], "data": recipe["data"], "stages": stages, "output_dir": folder}


def measured(folder: Path) -> dict:
    """What the stages' records say of the sentences left out."""
    stages = stages_of(folder)
    teacher = stages["finetune"]
    about = ("accuracy", "agreement")
    return {
        "sentences": SENTENCES,
        "phrases": PHRASES,
        "teacher": teacher["metrics"]["accuracy"],
        "students": {
            name: {key: stages[stage]["metrics"][key] for key in about} | {"seconds": stages[stage]["seconds"]}
            for stage, (name, _) in VARIANTS.items()
        },
        "software": teacher["software"],
        "hardware": teacher["hardware"],
    }


def markdown(content: dict) -> str:
    rows = (
        f"| {name} | {one['accuracy']:.4f} | {one['accuracy'] / content['teacher']:.1%} | {one['agreement']:.4f} |"
        for name, one in content["students"].items()
    )
    lines = [
        "# Two layers of SST-2 on unseen sentences",
        "",
        f"`{content['command']}`",
        "",
        "| answers are learned in | accuracy | of the teacher | agreement |",
        "| --- | ---: | ---: | ---: |",
        f"| teacher | {content['teacher']:.4f} | 100.0% | 1.0000 |",
        *rows,
        "",
        f"On {content['sentences']} sentences, left out of the training data with all of their phrases; of the others",
        f"{content['phrases']:,} are learned from. Neighbours are these with words of near meaning in the place of",
        "some, as `tkd-hf augment` makes them. One seed.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
