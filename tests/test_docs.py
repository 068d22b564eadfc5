"""What the pages of this repository say can be typed and followed."""

import dataclasses
import re
from pathlib import Path

import pytest
import typer

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
