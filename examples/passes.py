"""How long three layers of CoLA learn the answers best, and of which texts, on sentences left out of training.

    tkd-hf run examples/recipes/tkd-base.yaml && python examples/passes.py --data-dir DATA

Half of what CoLA validates on is of other sources than what it trains on, whose data stands in the order of its
sources. So the last sentences are left out, and as many of the others at random. A teacher and what its student learns
of features are made once; what is then varied is how the student learns the answers. What counts is what is left in
int8. DATA holds `cola/train.parquet` with the Hub's columns; without it they come from the Hub. What is done is
skipped, and the table goes into `<results-dir>/passes.{json,md}`.
"""

import argparse
from pathlib import Path

import yaml
from datasets import concatenate_datasets

from family import RECIPES, record_of
from family_seeds import run
from tkd_hf.cli.output import announce, write_json
from tkd_hf.data.loading import DataArguments, load_split
from tkd_hf.files import read_json
from tkd_hf.stages.report import REPORT_JSON


SEED, LEFT_OUT = 7, 0.05  # of the split: the share of the last, and of the others
# of the answers' stage
PLAIN = {"unlabelled": None}
VARIANTS = {
    "three passes": PLAIN,
    "six passes": {**PLAIN, "num_train_epochs": 6},
    "three passes, neighbours too": {},
}
COMMAND = "python examples/passes.py --data-dir DATA"


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "tkd-nlp-cola.yaml", help="its settings are taken")
    parser.add_argument("--data-dir")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/passes"))
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    options = parser.parse_args(arguments)

    write_split(options.data_dir, options.work_dir / "data" / "cola")
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    run(in_all_variants(recipe, str(options.work_dir / "run")), str(options.work_dir / "data"))
    content = {"command": COMMAND, **measured(options.work_dir / "run" / "report" / REPORT_JSON)}
    write_json(options.results_dir / "passes.json", content)
    (options.results_dir / "passes.md").write_text(markdown(content), encoding="utf-8")


def write_split(data_dir: str | None, folder: Path) -> None:
    """The last sentences and some of the others as validation data, the rest as training data."""
    if (folder / "validation.parquet").exists():
        return
    announce("sentences are left out")
    rows, _ = load_split(DataArguments(task="cola", data_dir=data_dir), "train")
    rows = rows.select_columns(["text", "label"]).rename_column("text", "sentence")
    count = round(LEFT_OUT * len(rows))
    others, last = rows.select(range(len(rows) - count)), rows.select(range(len(rows) - count, len(rows)))
    parts = others.train_test_split(count, seed=SEED)
    folder.mkdir(parents=True, exist_ok=True)
    parts["train"].to_parquet(folder / "train.parquet")
    concatenate_datasets([parts["test"], last]).to_parquet(folder / "validation.parquet")


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


def all_of(recipe: dict, name: str) -> list[dict]:
    """The settings of a recipe's stages of that name, in order."""
    return [stage[name] for stage in recipe["stages"] if name in stage]


def measured(path: Path) -> dict:
    """What the report says of the students in int8."""
    stages = ["quantize", *(f"quantize-{place}" for place in range(2, len(VARIANTS) + 1))]
    record = record_of(read_json(path, way_out="run it again"), dict(zip(stages, VARIANTS, strict=True)))
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
