"""Write the model cards of the published students, model_cards/*.md, from one file of records.

    python benchmarks/cards.py                     # write every card again from model_cards/records.json
    python benchmarks/cards.py --runs-dir runs     # first take the students of finished recipes into that file

The cards in this repository have no pictures. `tkd-hf card` writes the same card with pictures into the run folder.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tkd_hf.cards.card import Card
from tkd_hf.cards.generate import card, card_from_folder, render_card
from tkd_hf.records.run_folder import StageRecord


ROOT = Path(__file__).parent.parent
CARDS = ROOT / "model_cards"
# stage whose student is published -> suffix of its name
PUBLISHED = {"distill-2": "", "quantize": "-int8"}
PUBLISHED_TWELVE_LAYERS = {"distill": ""}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, help="folder with the runs of recipes whose records to take over")
    parser.add_argument("--cards-dir", type=Path, default=CARDS, help="where records.json and the cards are")
    options = parser.parse_args(arguments)

    path = options.cards_dir / "records.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if options.runs_dir:
        records |= collect(options.runs_dir)
        options.cards_dir.mkdir(parents=True, exist_ok=True)
        lines = [f"{json.dumps(name)}:{json.dumps(records[name], separators=(',', ':'))}" for name in sorted(records)]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    for name, record in records.items():
        (options.cards_dir / f"{name}.md").write_text(render(record), encoding="utf-8")


def collect(runs_dir: Path) -> dict[str, dict]:
    """Return the card's record of each published student whose recipe has run in `runs_dir`, report included."""
    records = {}
    for run in sorted(path.parents[1] for path in runs_dir.glob("tkd-*/report/report.json")):
        if run.name[-3:-1] == "-s":  # another seed: only the first one is published
            continue
        for stage, suffix in (PUBLISHED_TWELVE_LAYERS if run.name.startswith("tkd-12l") else PUBLISHED).items():
            name = run.name + suffix
            card(run / stage, run / "report", repo_id=name, language="en")
            content = asdict(card_from_folder(run / stage, repo_id=name)) | {"pictures": []}
            records[name] = without_calibration_bins(content)
    return records


def without_calibration_bins(content):
    """Drop the bins of calibration curves, which no card shows."""
    if isinstance(content, dict):
        return {name: without_calibration_bins(value) for name, value in content.items() if name != "bins"}
    return [without_calibration_bins(value) for value in content] if isinstance(content, list) else content


def render(record: dict) -> str:
    """Return the card as Markdown."""
    return render_card(Card(**record | {"record": StageRecord(**record["record"])}), language="en")


if __name__ == "__main__":
    main()
