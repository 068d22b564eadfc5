"""Generated sections within a page that people also write in: theirs stays, ours is replaced."""

import re

from ..errors import InputError


_BEGIN = "<!-- tkd-hf {}: generated; write your own text outside of these marks -->"
_END = "<!-- end of tkd-hf {} -->"
_MARK = re.compile(r"<!-- (end of )?tkd-hf (\w+)[^>]*-->")


def merge_sections(page: str, sections: dict[str, str]) -> str:
    """A page with its generated sections as they are now, and all else as it was.

    A section that is new comes after the one that it follows in `sections`; one that is empty, or is no longer there,
    goes with its marks. A page without marks is kept whole, and the sections come after it.

    Args:
        page: Markdown, without metadata.
        sections: Markdown by name, in order.

    Raises:
        InputError: if a mark of the page has lost its counterpart.

    Example:

    ```python
    >>> from tkd_hf.hub.sections import merge_sections, user_text
    >>> page = merge_sections("", {"results": "accuracy 0.8"})
    >>> page = merge_sections(page + "\\nMine.\\n", {"results": "accuracy 0.9"})
    >>> "0.8" in page, "0.9" in page, user_text(page)
    (False, True, 'Mine.')

    ```
    """
    pieces = _split(page)
    names = list(sections)
    there = [name for name, _ in pieces if name]
    for place, name in enumerate(names):
        if name not in there and sections[name]:
            before = [other for other in names[:place] if other in there]
            after = [other for other in names[place + 1 :] if other in there]
            where = len(pieces)
            if before or after:
                where = [known for known, _ in pieces].index(before[-1] if before else after[0]) + bool(before)
            pieces.insert(where, (name, ""))
            there.append(name)
    texts = [_marked(name, sections.get(name, "")) if name else text.strip("\n") for name, text in pieces]
    return "\n\n".join(text for text in texts if text.strip()) + "\n"


def user_text(page: str) -> str:
    """What of a page is not generated."""
    return "\n\n".join(text.strip() for name, text in _split(page) if not name and text.strip())


def _marked(name: str, text: str) -> str:
    return f"{_BEGIN.format(name)}\n{text.strip()}\n{_END.format(name)}" if text.strip() else ""


def _split(page: str) -> list[tuple[str | None, str]]:
    """The parts of a page in order: generated ones by name, those of people without."""
    pieces, start, opened = [], 0, None
    for mark in _MARK.finditer(page):
        closes, name = bool(mark[1]), mark[2]
        if closes != (opened is not None) or (closes and name != opened) or name in [known for known, _ in pieces]:
            raise InputError(
                f"the card's mark {mark[0]!r} has no counterpart, or stands twice; put it right, or delete the marks"
            )
        text = page[start : mark.start()]
        if closes or text.strip():
            pieces.append((opened, text))
        start, opened = mark.end(), None if closes else name
    if opened:
        raise InputError(
            f"the card's section {opened!r} has no end ({_END.format(opened)}); add it, or delete the mark"
        )
    if page[start:].strip():
        pieces.append((None, page[start:]))
    return pieces
