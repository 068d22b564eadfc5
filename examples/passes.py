"""How long three layers of CoLA learn the answers best, and of which texts, on sentences left out of training.

    tkd-hf run examples/recipes/tkd-base.yaml && python examples/passes.py --data-dir DATA

Half of what CoLA validates on is of other sources than what it trains on, whose data stands in the order of its
sources. So the last sentences are left out, and as many of the others at random. A teacher and what its student learns
of features are made once; what is then varied is how the student learns the answers. What counts is what is left in
int8. DATA holds `cola/train.parquet` with the Hub's columns; without it they come from the Hub. What is done is
skipped, and the table goes into `<results-dir>/passes.{json,md}`.
"""

from pathlib import Path

from datasets import Dataset, concatenate_datasets

from family import record_of
from left_out import all_of, carry_out, options_of, write_results
from tkd_hf.files import read_json
from tkd_hf.stages.report import REPORT_JSON


SEED, LEFT_OUT = 7, 0.05  # of the split: the share of the last, and of the others
# of the answers' stage
PLAIN = {"unlabelled": None}
VARIANTS = {
    "three passes": {**PLAIN, "num_train_epochs": 3},
    "six passes": {**PLAIN, "num_train_epochs": 6},
    "three passes, neighbours too": {"num_train_epochs": 3},
    "six passes, neighbours too": {"num_train_epochs": 6},
}
COMMAND = "python examples/passes.py --data-dir DATA"


def main(arguments: list[str] | None = None):
    options = options_of(__doc__, "passes", "tkd-nlp-cola", arguments)
    folder = carry_out(options, split, in_all_variants)
    content = {"command": COMMAND, **measured(folder / "report" / REPORT_JSON)}
    write_results(options.results_dir, "passes", content, markdown(content))


def split(rows: Dataset) -> tuple[Dataset, Dataset]:
    """What is learned from, and what is left out: the last sentences and some of the others."""
    count = round(LEFT_OUT * len(rows))
    others, last = rows.select(range(len(rows) - count)), rows.select(range(len(rows) - count, len(rows)))
    parts = others.train_test_split(count, seed=SEED)
    return parts["train"], concatenate_datasets([parts["test"], last])


def in_all_variants(recipe: dict, folder: str) -> dict:
    """The recipe's teacher and three layers, of which the answers' stage is run in every variant, each made int8."""
    features, answers, *_ = all_of(recipe, "distill")
    finetune, augment, cut, int8, report = (
        {name: all_of(recipe, name)[0]} for name in ("finetune", "augment", "prune", "quantize", "report")
    )
    stages = [finetune, {"label": None}, {"distill": features}, augment, {"label": None}]
    for settings in VARIANTS.values():
        learned = answers | settings | {"student": f"{folder}/distill"}
        stages += [{"distill": learned}, cut, int8]
    return {"model": recipe["model"], "data": recipe["data"], "stages": [*stages, report], "output_dir": folder}


def measured(path: Path) -> dict:
    """What the report says of the students in int8."""
    stages = ["quantize", *(f"quantize-{place}" for place in range(2, len(VARIANTS) + 1))]
    record = record_of(read_json(path, hint="run it again"), dict(zip(stages, VARIANTS, strict=True)))
    about = ("metric", "of_teacher", "nearness")
    return {
        **{name: record[name] for name in ("examples", "metric", "software", "hardware")},
        "teacher": record["teacher"]["metric"],
        "students": {
            name: {key: record["students"][stage][key] for key in about}
            for stage, name in zip(stages, VARIANTS, strict=True)
        },
    }


def markdown(content: dict) -> str:
    rows = (
        f"| {name} | {one['metric']:.4f} | {one['of_teacher']:.1%} | {one['nearness']:.4f} |"
        for name, one in content["students"].items()
    )
    lines = [
        "# How long three layers of CoLA learn the answers",
        "",
        f"`{content['command']}`",
        "",
        f"| answers are learned in | {content['metric'].replace('_', ' ')} | of the teacher | agreement |",
        "| --- | ---: | ---: | ---: |",
        f"| teacher | {content['teacher']:.4f} | 100.0% | 1.0000 |",
        *rows,
        "",
        f"In int8 with embeddings in int4, on {content['examples']} sentences that were left out of the training data,",
        "half of them of other sources, as in CoLA's validation data. Neighbours are training sentences with words of",
        "near meaning in the place of some, as `tkd-hf augment` makes them. One seed.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
