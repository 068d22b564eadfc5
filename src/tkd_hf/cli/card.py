"""`tkd-hf card`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from .output import announce, suggest


def card(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    report: Annotated[
        Path | None, typer.Option(help="Folder of a report on it, for results, speed and pictures.")
    ] = None,
    repo_id: Annotated[
        str | None, typer.Option(help="Hub id that it will have, org/name, for the examples of how to load it.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the model, such as apache-2.0.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of the texts, such as en; or several: en,de.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the model that it was made from, where the run began with a folder.")
    ] = None,
):
    """Write the card of a model (README.md) from its run's record, and from a report.

    It may be written anew at any time: what people wrote outside of the marks stays.
    """
    from ..stages.card import card as run

    announce(f"writing the card of {model}{f' with the report in {report}' if report else ''}")
    languages = None if language is None else re.findall(r"[\w-]+", language)
    run(model, report, repo_id, license, languages and (languages if len(languages) > 1 else languages[0]), base_model)
    print(model / "README.md")
    if not report and not (model / "report.json").exists():
        suggest(f"tkd-hf report {model}, and tkd-hf card {model} --report report")
    else:
        suggest(f"tkd-hf push {model} --repo-id {repo_id or f'ORG/{model.name}'}")
