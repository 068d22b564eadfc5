"""Read csv and tsv files: every row once, every cell as it is written, or not at all.

Readers that guess lose rows: a text that begins with a stray quotation mark swallows all lines up to the next mark, and
the words `None` and `NA` become gaps. Here a file is first scanned by the rules of RFC 4180. If they do not explain it,
quotation marks count as ordinary characters, provided that every line then has the same number of cells. A file that
neither reading explains, or both, is refused.
"""

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, Value

from ..core.errors import InputError
from ..core.processes import log_once


logger = logging.getLogger(__name__)

SEPARATORS = {".csv": ",", ".tsv": "\t"}
_MAX_HEADER_CHARACTERS = 1 << 20
_MAX_CELL_CHARACTERS = 1 << 24  # an unpaired quotation mark must not read a whole file into one cell
# A code with leading zeros is a name.
_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|-?inf", re.ASCII)
_MAX_DIFFERENT_LABELS = 1000
_GAP_WORDS = frozenset(["NA", "N/A", "NaN", "nan", "null", "NULL", "None"])  # gaps in a column of numbers alone


@dataclass(frozen=True)
class Layout:
    """How a csv or tsv file is written, and how many rows it has.

    Args:
        separator: the character between two cells.
        quoted: whether quotation marks enclose cells; if not, they are ordinary characters.
        columns: the names in the header line.
        types: the type of each column: `"int64"`, `"float64"`, `"bool"` or `"string"`.
        rows: number of rows below the header.
        spanning: first and last line of each row that holds line breaks.
    """

    separator: str
    quoted: bool
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: int
    spanning: tuple[tuple[int, int], ...]


def read_delimited(path: Path, digest: str) -> Dataset:
    """Read a csv or tsv file with a header line.

    A column whose cells are all whole numbers, numbers, or `true` and `false` has that type; any other column holds
    the cells as texts. Empty cells are `None`.

    Args:
        path: the file; its ending decides the separator.
        digest: a hash of its content. `datasets` keeps the rows on disk under it.

    Raises:
        InputError: if the file is no UTF-8, has two columns of one name, or has rows with more or fewer cells than the
            header; or if its quotation marks can be read in two ways.
    """
    layout = scan(path)
    features = Features({name: Value(kind) for name, kind in zip(layout.columns, layout.types, strict=True)})
    if not layout.rows:
        return Dataset.from_dict({name: [] for name in layout.columns}, features=features)
    rows = Dataset.from_generator(
        iterate_rows, features=features, gen_kwargs={"path": str(path), "layout": layout, "digest": digest}
    )
    if len(rows) != layout.rows:
        raise InputError(f"{path} has {layout.rows} rows, but {len(rows)} were read; it changed meanwhile: try again")
    return rows


def iterate_rows(path: str, layout: Layout, digest: str = "") -> Iterator[dict[str, str | int | float | bool | None]]:
    """Yield the rows of a file as `scan` understood it; `digest` is not read, it tells the versions of a file apart."""
    converters = [_CONVERTERS[kind] for kind in layout.types]
    records = _records(Path(path), layout.separator, layout.quoted)
    next(records)  # the header
    for _, _, cells in records:
        yield {name: convert(cell) for name, convert, cell in zip(layout.columns, converters, cells, strict=True)}


def scan(path: Path) -> Layout:
    """Read a file once and return how it is written. A choice between two readings is logged."""
    separator = SEPARATORS[path.suffix]
    _check_header(path, separator)
    layout = _survey(path, separator, quoted=True)
    if isinstance(layout, Layout) and not layout.spanning:
        return layout
    plain = _survey(path, separator, quoted=False)
    if isinstance(layout, str):
        if isinstance(plain, str):
            raise InputError(f"{path}: {layout}; write the file again (RFC 4180), or as jsonl or parquet")
        log_once(
            logger,
            f"{path}: {layout}; quotation marks are therefore read as characters of the texts ({plain.rows} rows)",
        )
        return plain
    if isinstance(plain, str) or not _may_have_swallowed_rows(path, layout):
        spanning = len(layout.spanning)
        log_once(logger, f"{path}: {spanning} of {layout.rows} rows hold line breaks within quotation marks")
        return layout
    raise InputError(
        f"{path} can be read in two ways: as {layout.rows} rows, if quotation marks enclose line breaks, or as "
        f"{plain.rows} rows, if they are characters of the texts; write the file again as jsonl or parquet, or without "
        "line breaks in cells"
    )


def _survey(path: Path, separator: str, quoted: bool) -> Layout | str:
    """Return the layout of a file under one reading of its quotation marks, or why that reading fails."""
    records = _records(path, separator, quoted)
    try:
        _, _, header = next(records, (0, 0, []))
        if not header:
            raise InputError(f"{path} is empty; its first line must name the columns")
        columns = [_Column() for _ in header]
        rows, spanning = 0, []
        for first, last, cells in records:
            if len(cells) != len(header):
                return f"the row at line {first} has {len(cells)} cells, but the header has {len(header)}"
            rows += 1
            if last > first:
                spanning.append((first, last))
            for column, cell in zip(columns, cells, strict=True):
                column.add(cell)
    except csv.Error as error:
        return f"the quotation marks are not paired ({error})"
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); convert it first") from error
    names = tuple(name or f"Unnamed: {index}" for index, name in enumerate(header))
    return Layout(separator, quoted, names, tuple(column.kind for column in columns), rows, tuple(spanning))


def _may_have_swallowed_rows(path: Path, layout: Layout) -> bool:
    """Return whether the lines of rows with line breaks look like rows of their own: like the labels of other rows.

    They do if some column holds, on all these lines, only numbers or values that other lines hold there as well.
    """
    inside = {line for first, last in layout.spanning for line in range(first, last + 1)}
    columns = range(len(layout.columns))
    values: list[set[str]] = [set() for _ in columns]
    numbers, cells_inside = [True for _ in columns], []
    records = _records(path, layout.separator, quoted=False)
    next(records)  # the header
    for line, _, cells in records:
        if line in inside:
            cells_inside.append(cells)
            continue
        for index, cell in enumerate(cells):
            numbers[index] = numbers[index] and _is_number(cell)
            if len(values[index]) < _MAX_DIFFERENT_LABELS:
                values[index].add(cell)
    return any(values) and any(
        all(cells[index] in values[index] or (numbers[index] and _is_number(cells[index])) for cells in cells_inside)
        for index in columns
    )


def _records(path: Path, separator: str, quoted: bool) -> Iterator[tuple[int, int, list[str]]]:
    """Yield first line, last line and cells of each record; lines without any character are skipped."""
    previous_limit = csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if quoted:
                reader = csv.reader(file, delimiter=separator, strict=True)
            else:
                reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_NONE)
            last = 0
            for cells in reader:
                first, last = last + 1, reader.line_num
                if cells:
                    yield first, last, cells
    finally:
        csv.field_size_limit(previous_limit)


def _check_header(path: Path, separator: str) -> None:
    """Refuse a first line that is no header, and two columns with the same name."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline(_MAX_HEADER_CHARACTERS)
    if len(header) == _MAX_HEADER_CHARACTERS:
        raise InputError(
            f"the first line of {path} is longer than {_MAX_HEADER_CHARACTERS} characters; give the file a header line "
            "with the column names"
        )
    names = next(csv.reader([header], delimiter=separator), [])
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise InputError(f"{path} has several columns {', '.join(map(repr, repeated))}; give each its own name")


class _Column:
    """The type of a column, told from its cells one by one."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()

    def add(self, cell: str) -> None:
        if "string" not in self._kinds:
            self._kinds.add(_kind(cell))

    @property
    def kind(self) -> str:
        kinds = self._kinds - {"gap", "word"}
        if kinds == {"int64", "float64"}:
            return "float64"
        return kinds.pop() if len(kinds) == 1 else "string"


def _kind(cell: str) -> str:
    if not cell:
        return "gap"
    if _WHOLE_NUMBER.fullmatch(cell):
        return "int64"
    if _DECIMAL.fullmatch(cell):
        return "float64"
    if cell.casefold() in ("true", "false"):
        return "bool"
    return "word" if cell in _GAP_WORDS else "string"


def _is_number(cell: str) -> bool:
    return _kind(cell) in ("int64", "float64")


_CONVERTERS = {
    "string": lambda cell: cell or None,
    "int64": lambda cell: int(cell) if _kind(cell) == "int64" else None,
    "float64": lambda cell: float(cell) if _is_number(cell) else None,
    "bool": lambda cell: cell.casefold() == "true" if _kind(cell) == "bool" else None,
}
