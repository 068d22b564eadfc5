"""The console: announcements and suggestions go to standard error, results to standard output."""

import codecs
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console
from rich.text import Text

from ..core.errors import InputError
from ..core.processes import is_first_process
from ..evaluation.tables import Table


@dataclass(frozen=True)
class RecipePosition:
    """Position of a command within a recipe.

    Args:
        name: such as `stage 2 of 3`.
        last: whether this is the last stage; only the last one suggests a next command.
    """

    name: str
    last: bool = True


_position: ContextVar[RecipePosition | None] = ContextVar("position", default=None)


@contextmanager
def at_position(position: RecipePosition) -> Iterator[None]:
    """Context in which commands run as a stage of a recipe."""
    token = _position.set(position)
    try:
        yield
    finally:
        _position.reset(token)


# Characters of tables and messages that a terminal may not have, and how to write them in ASCII.
_IN_ASCII = {"–": "-", "−": "-", "×": "x", "µ": "u", "…": "...", "→": "->", "∥": "||"}


def prepare_streams() -> None:
    """Let standard output and error replace characters that they cannot encode, instead of failing after the work."""
    codecs.register_error("tkd_hf.replace", _replace_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tkd_hf.replace")


def _replace_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_IN_ASCII.get(character, "?") for character in error.object[error.start : error.end]), error.end


class _Console(Console):
    """A console that goes quiet if its reader has gone (`tkd-hf evaluate … | head -1`); the command still finishes."""

    def on_broken_pipe(self) -> None:
        """Send everything that is printed from now on to nowhere."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


def _console(stderr: bool = False) -> Console:
    """Return a console; of the processes that `accelerate launch` starts, only the first one prints."""
    return _Console(stderr=stderr, highlight=False, quiet=not is_first_process())


def announce(text: str) -> None:
    """Print the first line of a command; call it once all options are checked and before any work."""
    position = _position.get()
    _console(stderr=True).print(f"{position.name}: {text}" if position else text, markup=False, soft_wrap=True)


def suggest(command: str) -> None:
    """Print a command to run next."""
    position = _position.get()
    if position is None or position.last:
        _console(stderr=True).print(f"next: {command}", markup=False, soft_wrap=True)


def show(text: str) -> None:
    """Print a line of a result on standard output."""
    _console().print(text, markup=False, soft_wrap=True)


def show_table(table: Table) -> None:
    """Print a table on standard output."""
    drawn = rich.table.Table(box=None, pad_edge=False, header_style="")
    for index, column in enumerate(table.columns):
        heading = column.short or column.heading
        drawn.add_column(_cell(heading if index else table.title or heading), justify=column.align, no_wrap=True)
    for cells in table.cells():
        drawn.add_row(*map(_cell, cells))
    console = _console()
    if not console.is_terminal:  # do not truncate a table that goes to a pipe or a file
        console.width = 1000
    console.print(drawn)


def _cell(text: str) -> Text:
    """Return a text as it is: names are neither markup nor control sequences of the terminal."""
    return Text("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text))


def store_and_show(path: str | Path | None, content: dict[str, Any], *tables: Table) -> dict[str, Any]:
    """Store results as JSON if a file is named, then print them; return them for `tkd-hf run`.

    They are stored first, so that nothing that happens to the terminal loses them, and printed even if the file cannot
    be written.
    """
    try:
        write_json(path, content)
    finally:
        for table in tables:
            show_table(table)
    return content


def write_json(path: str | Path | None, content: dict[str, Any]) -> dict[str, Any]:
    """Write results as JSON if a file is named, and return them for `tkd-hf run`."""
    if path is None:
        return content
    try:
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return content
