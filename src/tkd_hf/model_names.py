"""How models are named: a folder, a Hub id, or a Hub id at a revision."""

from collections.abc import Sequence
from pathlib import Path


def split_revision(model: str) -> tuple[str, str | None]:
    """Splits `org/model@revision` into the Hub id and the commit, branch or tag; a folder is itself, at none.

    Example:

    ```python
    >>> from tkd_hf.model_names import split_revision
    >>> split_revision("org/model@v1.0"), split_revision("org/model")
    (('org/model', 'v1.0'), ('org/model', None))

    ```
    """
    if "@" not in model or Path(model).exists():
        return model, None
    name, _, revision = model.rpartition("@")
    return name, revision


def short_names(models: Sequence[str]) -> list[str]:
    """For tables: of each name as many parts from its end as tell it from the others.

    Example:

    ```python
    >>> from tkd_hf.model_names import short_names
    >>> short_names(["runs/sst2/distill", "runs/sst2/distill-2", "runs/mrpc/distill"])
    ['sst2/distill', 'distill-2', 'mrpc/distill']

    ```
    """
    parts = [[part for part in model.split("/") if part] for model in models]

    def short(own: list[str]) -> str:
        for count in range(1, len(own)):
            if sum(other[-count:] == own[-count:] for other in parts) == 1:
                return "/".join(own[-count:])
        return "/".join(own)

    return [short(own) for own in parts]
