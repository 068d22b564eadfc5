"""Out of domain: students of movie reviews on product reviews, tweets and editorials.

    python benchmarks/out_of_domain.py            # after the family's recipe of the movie reviews has run
    python benchmarks/out_of_domain.py --quick

All texts are from the same collection (Hutto and Gilbert 2014), rated by the same people in the same way. Neither the
teacher nor its students have seen any of the texts that are measured on.
"""

import runpy
from pathlib import Path

from datasets import Dataset

from common import environment, parser_of, read_options, save_rows, say, tiny_dataset, tiny_model
from family import SIZES
from tkd_hf import DataArguments, evaluate


QUICKSTART_DATA = Path(__file__).parent.parent / "examples" / "quickstart_data.py"
DOMAINS = {
    "movie reviews": None,  # the test split that the teacher and its students were not trained on
    "product reviews": "amazonReviewSnippets",
    "tweets": "tweets",
    "editorials": "nytEditorialSnippets",
}
TEACHER, STUDENTS = "finetune", ("distill-2", "prune", "quantize", "quantize-2", "quantize-3")  # stages of the recipe


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "runs/out-of-domain")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/tkd-nlp-reviews"), help="run of the recipe")
    parser.add_argument("--reviews", type=Path, default=Path("runs/quickstart/movie-reviews"), help="its data set")
    options = read_options(parser, arguments)
    if options.quick:
        options.run_dir, options.reviews = options.work_dir / "run", options.work_dir / "movie reviews"
        for stage in (TEACHER, *STUDENTS):
            tiny_model(options.run_dir / stage, layers=2)
        for domain in DOMAINS:
            tiny_dataset(options.work_dir / domain, splits=("test",))

    rows = []
    for domain, kind in DOMAINS.items():
        say(f"on {domain}")
        folder = fetch(kind, options.work_dir / domain) if kind else options.reviews
        rows += measure(domain, options.run_dir, DataArguments(dataset=str(folder), eval_split="test", max_length=64))
    save_rows(options.results, rows, key=("domain", "model"), section="out_of_domain")


def fetch(kind: str, folder: Path) -> Path:
    """Download all texts of one kind into a data set with one split, unless it is there."""
    if not (folder / "test.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rated_texts(kind).to_parquet(folder / "test.parquet")
    return folder


def rated_texts(kind: str) -> Dataset:
    """Download texts of one kind as the quickstart does, whose script is in another folder."""
    return runpy.run_path(str(QUICKSTART_DATA))["rated_texts"](kind)


def measure(domain: str, run: Path, data: DataArguments) -> list[dict]:
    """Return a row for the teacher and one per student; changes have 95 % bootstrap intervals over the texts."""
    evaluation = evaluate([str(run / stage) for stage in STUDENTS], data, str(run / TEACHER))
    rows = []
    for name, result in zip(["teacher", *map(SIZES.get, STUDENTS)], evaluation.models, strict=True):
        row = {"domain": domain, "examples": evaluation.examples, "model": name, "accuracy": result.metrics["accuracy"]}
        if name != "teacher":
            row |= {"agreement": result.agreement, **result.changes["accuracy"]}
        rows.append(row | {"seed": 42, "command": "python benchmarks/out_of_domain.py"} | environment("onnxruntime"))
    return rows


if __name__ == "__main__":
    main()
