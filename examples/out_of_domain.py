"""Out of domain: students that learned from movie reviews, on tweets, product reviews and editorials.

    tkd-hf run examples/recipes/tkd-nlp-reviews.yaml && python examples/out_of_domain.py

The texts are of the same collection, rated by the same people in the same way; neither the teacher nor its students
have seen any of them. Writes examples/results/out_of_domain.json and .md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from quickstart_data import rated_texts
from tkd_hf.cli.output import announce, write_json
from tkd_hf.data.loading import DataArguments
from tkd_hf.stages.evaluate import Evaluation, evaluate


DOMAINS = {
    "movie reviews (their own, test)": None,
    "product reviews": "amazonReviewSnippets",
    "tweets": "tweets",
    "editorials": "nytEditorialSnippets",
}
# by the recipe's stages
TEACHER = "finetune"
STUDENTS = {
    "distill-2": "3 layers",
    "prune": "3 layers, fewer tokens",
    "quantize": "3 layers, fewer tokens, int8",
    "quantize-2": "3 narrow layers, fewer tokens, int8",
    "quantize-3": "2 layers, fewer tokens, int8",
}
COMMAND = "tkd-hf run examples/recipes/tkd-nlp-reviews.yaml && python examples/out_of_domain.py"


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/tkd-nlp-reviews"))
    parser.add_argument("--reviews", type=Path, default=Path("runs/quickstart/movie-reviews"))
    parser.add_argument("--work-dir", type=Path, default=Path("runs/out-of-domain"))
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    options = parser.parse_args(arguments)

    students, teacher = [str(options.run_dir / stage) for stage in STUDENTS], str(options.run_dir / TEACHER)
    found = {}
    for name, kind in DOMAINS.items():
        announce(f"on {name}")
        folder = fetch(kind, options.work_dir / kind) if kind else options.reviews
        data = DataArguments(dataset=str(folder), eval_split="test", max_length=64)
        found[name] = evaluate(students, data, teacher)
    content = {"command": COMMAND, "domains": {name: one.to_dict() for name, one in found.items()}}
    options.results_dir.mkdir(parents=True, exist_ok=True)
    write_json(options.results_dir / "out_of_domain.json", content)
    (options.results_dir / "out_of_domain.md").write_text(markdown(found), encoding="utf-8")


def fetch(kind: str, folder: Path) -> Path:
    """A data set with one split, of all texts of that kind."""
    if not (folder / "test.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rated_texts(kind).to_parquet(folder / "test.parquet")
    return folder


def markdown(found: dict[str, Evaluation]) -> str:
    return "\n".join(
        [
            "# Students of movie reviews on other texts",
            "",
            f"`{COMMAND}`",
            "",
            "| | accuracy | of the teacher | change | agreement |",
            "| --- | ---: | ---: | ---: | ---: |",
            *(line for name, one in found.items() for line in lines(name, one)),
            "",
            "The teacher is MiniLM of six layers; it and its students ([the family's](family.md)) were trained on the "
            "movie reviews alone, one seed. In brackets the 95 % interval of the change, by bootstrap over texts. "
            "“Fewer tokens” are those that the movie reviews use. The texts are those of the collection (Hutto and "
            "Gilbert 2014) whose mean rating is not 0, its sign being the label.",
            "",
        ]
    )


def lines(name: str, one: Evaluation) -> Iterator[str]:
    """The teacher on a domain, and each of the students."""
    teacher, *students = one.models
    taught = teacher.metrics["accuracy"]
    yield f"| **{name}**, {one.examples:,} texts: teacher | {taught:.4f} | | | |"
    for about, student in zip(STUDENTS.values(), students, strict=True):
        value, change = student.metrics["accuracy"], student.changes["accuracy"]
        low, high = change["interval"]
        yield (
            f"| {about} | {value:.4f} | {value / taught:.1%} | {change['change']:+.4f} [{low:+.4f}, {high:+.4f}] "
            f"| {student.agreement:.4f} |"
        )


if __name__ == "__main__":
    main()
