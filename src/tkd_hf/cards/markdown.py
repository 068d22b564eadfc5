"""Markdown of reports and model cards: escaped names, tables, and the templates.

Names of models, data, labels and files come from strangers. Every text that a template prints is therefore escaped,
unless it is `Markdown` already.
"""

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..core.statistics import RESAMPLES
from ..evaluation import tables
from ..evaluation.columns import readable_name
from ..evaluation.results import Report
from ..evaluation.tables import Table


class Markdown(str):
    """Text that is Markdown already, so `escape` leaves it as it is."""


def escape(value: Any) -> Markdown:
    """Return a value as Markdown that shows it as plain text on one line.

    Line breaks, which could begin a heading or end a table, become spaces. Characters that begin HTML, code or a column
    are escaped, and so is the middle of a link.

    Example:

    ```python
    >>> from tkd_hf.cards.markdown import Markdown, escape
    >>> escape("a|b <b>\\n# c"), escape("![x](https://example.org)"), escape(Markdown("**bold**"))
    ('a\\\\|b &lt;b> # c', '![x]\\\\(https://example.org)', '**bold**')

    ```
    """
    if isinstance(value, Markdown):
        return value
    text = re.sub(r"[\\`|]", r"\\\g<0>", re.sub(r"\s+", " ", str(value)))
    return Markdown(text.replace("<", "&lt;").replace("](", "]\\("))


def code_span(text: Any) -> Markdown:
    """Return a name as inline code; a name with characters that code cannot escape becomes plain text."""
    text = re.sub(r"\s+", " ", str(text))
    return escape(text) if not text.strip() or set(text) & set("`|<\\") else Markdown(f"`{text}`")


def link(text: str, url: str) -> Markdown:
    """Return a link; the characters of the address that could end it are quoted."""
    return Markdown(f"[{escape(text)}]({url_path(url)})")


def url_path(path: str) -> Markdown:
    """Return a path or an address with all characters quoted that could end a link."""
    return Markdown(quote(path, safe="/:@.-_~"))


def python_string(text: str) -> Markdown:
    """Return a text as the source of a Python string, for code that readers copy.

    Example:

    ```python
    >>> from tkd_hf.cards.markdown import python_string
    >>> python_string('x"); import os; ("')
    '"x\\\\"); import os; (\\\\""'

    ```
    """
    source = json.dumps(text) if text.isascii() else ascii(text)
    return Markdown(source.replace("<", "\\x3c"))  # so that it is never read as the mark of a section


def join(parts: Iterable[Any], separator: str = ", ") -> Markdown:
    """Return the escaped parts with a separator between them."""
    return Markdown(separator.join(map(escape, parts)))


def markdown_table(columns: Iterable[Any], rows: Iterable[Iterable[Any]], text_columns: int = 1) -> Markdown:
    """Return a table of escaped cells. The first columns are texts, aligned left; the others are numbers."""
    columns = list(columns)
    alignments = [Markdown("---")] * text_columns + [Markdown("---:")] * (len(columns) - text_columns)
    lines = [columns, alignments, *rows]
    return Markdown("\n".join(f"| {join((_stripped(cell) for cell in line), ' | ')} |" for line in lines))


def key_value_table(rows: dict[str, Any], title: str) -> Markdown:
    """Return a table of two columns, name and value; the title is the header of the first one."""
    lines = [f"| {_stripped(name)} | {_stripped(value)} |" for name, value in rows.items()]
    return Markdown("\n".join([f"| {_stripped(title)} | |", "| --- | --- |", *lines]))


def table_by_result(table: Table) -> Markdown:
    """Return a table as `report.md` shows it: a row per model, a column per quantity."""
    return markdown_table([column.heading for column in table.columns], table.cells())


def table_by_quantity(table: Table) -> Markdown:
    """Return a table as a model card shows it: a row per quantity, a column per model."""
    names, *values = zip(*table.cells(), strict=True)
    headings = [column.long or column.heading for column in table.columns[1:]]
    if len(names) == 1:
        return key_value_table(
            {heading: cells[0] for heading, cells in zip(headings, values, strict=True)}, table.title
        )
    rows = ([heading, *cells] for heading, cells in zip(headings, values, strict=True))
    return markdown_table([table.title, *names], rows)


def template_environment() -> Environment:
    """Return the environment of the templates of this package; it escapes every value that is not `Markdown`."""
    environment = Environment(
        loader=PackageLoader("tkd_hf.cards", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=escape,
    )
    environment.filters |= {"code": code_span, "python": python_string, "url": url_path}
    return environment


def report_markdown(report: Report) -> str:
    """Return a report as Markdown. Its plots are expected in `pictures/` next to it."""
    students = {
        name: model for name, model in zip(report.names, report.evaluation.models, strict=True) if model.fidelity
    }
    recalls = tables.recall_table(students)
    return (
        template_environment()
        .get_template("report.md.jinja")
        .render(
            report=report,
            metric=readable_name(next(iter(report.evaluation.models[0].metrics))),
            resamples=RESAMPLES,
            overview=table_by_result(tables.overview_table(report)),
            agreement=table_by_result(tables.agreement_table(students)),
            classes=recalls and table_by_result(recalls),
            latencies=table_by_result(tables.latency_table(report)),
            resources=table_by_result(tables.resources_table(report)),
            setup=_setup(report),
        )
    )


def _setup(report: Report) -> dict[str, Any]:
    """Return the models, hardware and software on which the results depend, by name."""
    hardware, software = report.benchmark.hardware, report.benchmark.software
    models = zip(report.names, report.evaluation.models, strict=True)
    return {
        "models": join(Markdown(f"{escape(name)}: {code_span(model.name)}") for name, model in models),
        "processor": f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores in use",
        "accelerator": hardware["accelerator"] or "none",
        "software": ", ".join(f"{name} {version}" for name, version in software.items()),
        "timed texts": f"{report.benchmark.texts}, {report.benchmark.tokens:.1f} tokens on average",
        "finished": report.finished,
    }


def _stripped(value: Any) -> Markdown:
    return Markdown(escape(value).strip())
