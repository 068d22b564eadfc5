"""Names of models: a folder, a Hub id, or a Hub id at a revision."""

from collections.abc import Sequence
from pathlib import Path


def split_revision(model: str) -> tuple[str, str | None]:
    """Split `org/model@revision` into the Hub id and the commit, branch or tag.

    Without a revision, and for an existing folder even if its name contains `@`, the revision is `None`.

    Example:

    ```python
    >>> from tkd_hf.core.model_names import split_revision
    >>> split_revision("org/model@v1.0"), split_revision("org/model")
    (('org/model', 'v1.0'), ('org/model', None))

    ```
    """
    if "@" not in model or Path(model).exists():
        return model, None
    name, _, revision = model.rpartition("@")
    return name, revision


def short_names(models: Sequence[str]) -> list[str]:
    """Shorten paths for a table: keep as many trailing parts of each as make it unique.

    Example:

    ```python
    >>> from tkd_hf.core.model_names import short_names
    >>> short_names(["runs/sst2/distill", "runs/sst2/distill-2", "runs/mrpc/distill"])
    ['sst2/distill', 'distill-2', 'mrpc/distill']

    ```
    """
    parts = [[part for part in model.split("/") if part] for model in models]

    def shorten(model_parts: list[str]) -> str:
        for count in range(1, len(model_parts)):
            ending = model_parts[-count:]
            if sum(any_parts[-count:] == ending for any_parts in parts) == 1:
                return "/".join(ending)
        return "/".join(model_parts)

    return [shorten(model_parts) for model_parts in parts]
