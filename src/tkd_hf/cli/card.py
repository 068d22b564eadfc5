"""`tkd-hf card`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .output import announce, suggest


def card(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    report: Annotated[
        Path | None, o.option(help="Report on the model, for results, speed and pictures: folder (none).")
    ] = None,
    repo_id: Annotated[
        str | None, o.option(help="Future Hub id, org/name, for the examples of how to load it (the folder's name).")
    ] = None,
    license: Annotated[str | None, o.option(help="Licence of the model, such as apache-2.0 (none).")] = None,
    language: Annotated[
        str | None, o.option(help="Language of the texts, such as en, or several, such as en,de (none).")
    ] = None,
    base_model: Annotated[
        str | None, o.option(help="Hub id of the model it was made from (the one in the run's record).")
    ] = None,
):
    """Write a model's card (README.md) from the record of its run and, if given, from a report.

    The card can be written again at any time; text outside of the marks stays.
    """
    from ..cards.generate import card as run

    announce(f"writing the card of {model}{f' with the report in {report}' if report else ''}")
    languages = None if language is None else re.findall(r"[\w-]+", language)
    if languages and len(languages) == 1:
        languages = languages[0]
    run(model, report, repo_id, license, languages, base_model)
    print(model / "README.md")
    if not report and not (model / "report.json").exists():
        suggest(f"tkd-hf report {model} && tkd-hf card {model} --report report")
    else:
        suggest(f"tkd-hf push {model} --repo-id {repo_id or f'ORG/{model.name}'}")
