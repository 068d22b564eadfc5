"""Out of domain: a student that learned from movie reviews, on tweets, product reviews and editorials.

    python examples/quickstart.py && python examples/out_of_domain.py

The texts are of the quickstart's collection, rated by the same people in the same way; neither the teacher nor the
student has seen any of them. Writes examples/results/out_of_domain.json and .md.
"""

import argparse
import json
from pathlib import Path

from quickstart import DATA, STUDENT, TEACHER, rated_texts
from tkd_hf.cli.output import announce
from tkd_hf.data.loading import DataArguments
from tkd_hf.stages.evaluate import Evaluation, evaluate


DOMAINS = {
    "movie reviews (its own, test)": None,
    "product reviews": "amazonReviewSnippets",
    "tweets": "tweets",
    "editorials": "nytEditorialSnippets",
}
COMMAND = "python examples/quickstart.py && python examples/out_of_domain.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/out-of-domain"))
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    options = parser.parse_args()

    found = {}
    for name, kind in DOMAINS.items():
        announce(f"on {name}")
        folder = Path(DATA) if kind is None else fetch(kind, options.work_dir / kind)
        data = DataArguments(dataset=str(folder), eval_split="test", max_length=64)
        found[name] = evaluate(STUDENT, data, teacher=TEACHER)
    write(options.results_dir, found)


def fetch(kind: str, folder: Path) -> Path:
    """A data set with one split, of all texts of that kind."""
    if not (folder / "test.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rated_texts(kind).to_parquet(folder / "test.parquet")
    return folder


def write(folder: Path, found: dict[str, Evaluation]) -> None:
    content = {"command": COMMAND, "domains": {name: one.to_dict() for name, one in found.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "out_of_domain.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "out_of_domain.md").write_text(markdown(found), encoding="utf-8")


def markdown(found: dict[str, Evaluation]) -> str:
    return "\n".join(
        [
            "# A student of movie reviews on other texts",
            "",
            f"`{COMMAND}`",
            "",
            "| | texts | teacher | student | change | agreement |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *(row(name, one) for name, one in found.items()),
            "",
            "Accuracy, MiniLM of six layers and its student of three, trained on the movie reviews alone, one seed. In "
            "brackets the 95 % interval of the change, by bootstrap over texts. The texts are those of the collection "
            "(Hutto and Gilbert 2014) whose mean rating is not 0, its sign being the label.",
            "",
        ]
    )


def row(name: str, one: Evaluation) -> str:
    teacher, student = one.models
    change = student.changes["accuracy"]
    low, high = change["interval"]
    return (
        f"| {name} | {one.examples:,} | {teacher.metrics['accuracy']:.4f} | {student.metrics['accuracy']:.4f} "
        f"| {change['change']:+.4f} [{low:+.4f}, {high:+.4f}] | {student.agreement:.4f} |"
    )


if __name__ == "__main__":
    main()
