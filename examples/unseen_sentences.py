"""How two layers learn SST-2 best, measured on sentences of which neither they nor their teacher saw a phrase.

    tkd-hf run examples/recipes/tkd-base.yaml && python examples/unseen_sentences.py --data-dir DATA

SST-2 trains on the phrases of sentences and validates on whole sentences of others, so that phrases left out at random
say little: most of their words were seen in longer ones. Here whole sentences are left out of the training data with
all of their phrases. DATA holds `sst2/train.parquet` with the Hub's columns; without it they come from the Hub. A
teacher and the features of two layers are made once; what is then varied is how the two layers learn the answers. What
is done is skipped, and the table goes into `<results-dir>/unseen_sentences.{json,md}`.
"""

import random
from pathlib import Path

from datasets import Dataset

from family import stages_of
from left_out import all_of, carry_out, options_of, write_results


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
    options = options_of(__doc__, "unseen_sentences", "tkd-nlp-sst2", arguments)
    folder = carry_out(options, split, two_layers_of)
    content = {"command": COMMAND, **measured(folder)}
    write_results(options.results_dir, "unseen_sentences", content, markdown(content))


def split(rows: Dataset) -> tuple[Dataset, Dataset]:
    """Phrases to learn from, and sentences in which none of them is."""
    phrases = [" ".join(text.split()) for text in rows["sentence"]]
    draw = random.Random(SEED)
    held_out = draw.sample(sentences(phrases), SENTENCES)
    theirs = in_one(held_out)
    first = {phrase: row for row, phrase in reversed(list(enumerate(phrases)))}
    others = [row for row, phrase in enumerate(phrases) if f" {phrase} " not in theirs]
    return rows.select(draw.sample(others, PHRASES)), rows.select([first[sentence] for sentence in held_out])


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
    finetune, augment = ({name: all_of(recipe, name)[0]} for name in ("finetune", "augment"))
    _, answers, features, _ = all_of(recipe, "distill")
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
