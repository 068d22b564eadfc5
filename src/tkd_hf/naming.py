"""How models are named: a folder, a Hub id, or a Hub id at a revision."""

from pathlib import Path


def at_revision(model: str) -> tuple[str, str | None]:
    """Splits `org/model@revision` into the Hub id and the commit, branch or tag; a folder is itself, at none.

    Example:

    ```python
    >>> from tkd_hf.naming import at_revision
    >>> at_revision("org/model@v1.0"), at_revision("org/model")
    (('org/model', 'v1.0'), ('org/model', None))

    ```
    """
    if "@" not in model or Path(model).exists():
        return model, None
    name, _, revision = model.rpartition("@")
    return name, revision
