"""The options of a model card."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.options import option, option_class


if TYPE_CHECKING:
    from ..records.run_folder import StageRecord


def parse_languages(value: Any) -> str | list[str]:
    """Parse one language code, or several, such as `en,de`."""
    words = value.split(",") if isinstance(value, str) else value
    codes = words if isinstance(words, list | tuple) else [words]
    if not all(isinstance(code, str) for code in codes):
        raise ValueError("are not language codes; put them in quotes, because YAML reads no as false")
    codes = [code.strip() for code in codes]
    return codes[0] if len(codes) == 1 else codes


@option_class
class CardOptions:
    """Write a model's card (README.md) from the record of its run and, if given, from a report.

    The card can be written again at any time; text outside of the marks stays.
    """

    folder: str | Path = option(flag="--model", positional=True, metavar="RUN", help="Folder of a run.")
    report: str | Path | None = option(
        default=None,
        help="Report that includes the model: folder. The results of the model and its teacher are copied into the run "
        "folder (report.json, pictures/), where later updates find them.",
    )
    repo_id: str | None = option(
        default=None,
        metavar="ORG/NAME",
        shown_default="the folder's name",
        help="Future Hub id of the model, for the examples of how to load it.",
    )
    license: str | None = option(default=None, help="Licence of the model, such as apache-2.0.")
    language: str | Sequence[str] | None = option(
        default=None,
        parse=parse_languages,
        metavar="CODE,…",
        help="Language code of the texts, such as en, or several, such as en,de.",
    )
    base_model: str | None = option(
        default=None,
        shown_default="the one in the run's record",
        help="Hub id of the model that training started from. Needed if the record knows only a local folder.",
    )
    tags: str | Sequence[str] | None = option(
        default=None, console=False, help="Tags to add to those that follow from the run."
    )
    record: "StageRecord | None" = option(
        default=None, console=False, shown_default="the one in the folder", help="Record of the run."
    )
