"""Replace the generated sections of a page and keep what people wrote between them."""

import re

from ..core.errors import InputError


_BEGIN = "<!-- tkd-hf {}: generated; write your own text outside of these marks -->"
_END = "<!-- end of tkd-hf {} -->"
_MARKER = re.compile(r"<!-- (end of )?tkd-hf (\w+)[^>]*-->")


def merge_sections(page: str, sections: dict[str, str]) -> str:
    """Update the generated sections of a page and leave the rest of it unchanged.

    Each generated section stands between two markers (HTML comments) that hold its name. Sections are matched by that
    name, never by heading, so headings may change between versions. A new section goes after the section that precedes
    it in `sections`. A section that is empty or missing in `sections` is removed with its markers. If the page has no
    markers, it is kept completely and the sections follow it.

    Args:
        page: Markdown without front matter.
        sections: Markdown by section name, in order.

    Raises:
        InputError: if a marker of the page has no counterpart or occurs twice.

    Example:

    ```python
    >>> from tkd_hf.cards.sections import merge_sections, user_text
    >>> page = merge_sections("", {"results": "accuracy 0.8"})
    >>> page = merge_sections(page + "\\nMine.\\n", {"results": "accuracy 0.9"})
    >>> "0.8" in page, "0.9" in page, user_text(page)
    (False, True, 'Mine.')

    ```
    """
    parts = _split(page)
    names = list(sections)
    present = [name for name, _ in parts if name]
    for index, name in enumerate(names):
        if name in present or not sections[name]:
            continue
        preceding = [earlier for earlier in names[:index] if earlier in present]
        following = [later for later in names[index + 1 :] if later in present]
        names_of_parts = [part_name for part_name, _ in parts]
        if preceding:
            position = names_of_parts.index(preceding[-1]) + 1
        elif following:
            position = names_of_parts.index(following[0])
        else:
            position = len(parts)
        parts.insert(position, (name, ""))
        present.append(name)
    texts = [_with_markers(name, sections.get(name, "")) if name else text.strip("\n") for name, text in parts]
    return "\n\n".join(text for text in texts if text.strip()) + "\n"


def user_text(page: str) -> str:
    """Return the text of a page that stands outside of the generated sections."""
    return "\n\n".join(text.strip() for name, text in _split(page) if not name and text.strip())


def _with_markers(name: str, text: str) -> str:
    return f"{_BEGIN.format(name)}\n{text.strip()}\n{_END.format(name)}" if text.strip() else ""


def _split(page: str) -> list[tuple[str | None, str]]:
    """Split a page into (name, text) pairs, in order; the name is `None` for text that people wrote."""
    parts: list[tuple[str | None, str]] = []
    start, open_section = 0, None
    for marker in _MARKER.finditer(page):
        closes, name = bool(marker[1]), marker[2]
        unbalanced = closes != (open_section is not None) or (closes and name != open_section)
        if unbalanced or name in [earlier for earlier, _ in parts]:
            raise InputError(
                f"the marker {marker[0]!r} in the card has no counterpart or occurs twice; restore the pair, or delete "
                "its markers"
            )
        text = page[start : marker.start()]
        if closes or text.strip():
            parts.append((open_section, text))
        start, open_section = marker.end(), None if closes else name
    if open_section:
        raise InputError(
            f"the card's section {open_section!r} has no end marker ({_END.format(open_section)}); add it, or delete "
            "the begin marker"
        )
    if page[start:].strip():
        parts.append((None, page[start:]))
    return parts
