"""What the pages of this repository say can be typed and followed."""

import dataclasses
import re
from pathlib import Path

import pytest
import typer

import family_table
from tests.conftest import read_json
from tkd_hf.cli import app
from tkd_hf.training_args import DistillationTrainingArguments


ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "model_cards/**/*.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
COMMAND = re.compile(r"(?:^|`|\$ )tkd-hf +([a-z]+)((?: +(?!#)[^\s`]+)*)", re.MULTILINE)
FLAG = re.compile(r"(?<!\S)--([a-z][a-z0-9-]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    targets = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_have_their_flags(page):
    commands = typer.main.get_command(app).commands
    training = {field.name.replace("_", "-") for field in dataclasses.fields(DistillationTrainingArguments)}
    for name, words in COMMAND.findall(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        assert name in commands, f"tkd-hf {name}"
        known = {option.lstrip("-") for parameter in commands[name].params for option in parameter.opts} | {"help"}
        if isinstance(commands[name], type(commands["distill"])):
            known |= training
        assert set(FLAG.findall(words)) <= known, f"tkd-hf {name}{words}"


def test_the_table_of_backends_says_what_was_measured():
    results = ROOT / "examples/results"
    found = [
        {row["model"]: row for row in read_json(results / f"quantization-{task}.json")["rows"]}
        for task in ("sst2", "stsb")
    ]
    lines = re.findall(r"^\| (teacher|3 layers), (.*?) \| (.*×) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 16
    for who, how, figures in lines:
        sst2, stsb = (rows[f"{who}, {how.partition(' (')[0]}"] for rows in found)
        likeness = [f"{row['agreement']:.3f}" if row["agreement"] else "–" for row in (sst2, stsb)]
        speeds = [f"{timing['speedup']:.1f}×" for timing in sst2["timings"]]
        quality = [f"{sst2['metrics']['accuracy']:.4f}", likeness[0], f"{stsb['metrics']['pearson']:.4f}", likeness[1]]
        assert figures.split(" | ") == [*quality, f"{sst2['megabytes']:.1f}", *speeds]


def test_the_table_of_recipes_says_what_was_measured():
    names = {"labels alone": "plain", "DistilBERT's recipe": "distilbert", "TinyBERT's recipe": "tinybert"}
    rows = read_json(ROOT / "examples/paper/results/comparison.json")["rows"]
    found = {(str(row["layers"]), row["recipe"]): row for row in rows}
    lines = re.findall(r"^\| (\d) layers, (.*?) \| (.* %.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == len(rows)
    for layers, about, figures in lines:
        row = found[layers, names.get(about, about.strip("*"))]
        cells = [f"{100 * task['of_teacher']['mean']:.1f} %" for task in row["tasks"].values()]
        mean = row["of_teacher"]
        assert figures.split(" | ") == [*cells, f"{100 * mean['mean']:.1f} % ± {100 * mean['sd']:.1f}"]


def test_the_table_of_the_family_says_what_was_measured():
    content = read_json(ROOT / "examples/results/family.json")
    assert "\n".join(family_table.overview(content)) in (ROOT / "README.md").read_text(encoding="utf-8")
