"""What a command says: its intention and its hints on standard error, its results on standard output."""

import json
from collections.abc import Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..errors import InputError
from ..processes import is_first_process


if TYPE_CHECKING:
    from ..stages.benchmark import Benchmark
    from ..stages.evaluate import Evaluation, ModelResult
    from ..stages.report import Report
    from ..stages.run_folder import StageRecord


@dataclass(frozen=True)
class RecipePosition:
    """Where in a recipe a command stands.

    Args:
        name: such as `stage 2 of 3`.
        last: whether it is the last stage, whose hint at a next command is the recipe's.
        check_only: whether the command is only to read its options: it then ends with `OptionsChecked` before its work.
    """

    name: str
    last: bool = True
    check_only: bool = False


class OptionsChecked(Exception):
    """The options of a command are good, and its work was not wanted."""


_position: ContextVar[RecipePosition | None] = ContextVar("position", default=None)


@contextmanager
def at_position(position: RecipePosition):
    """Commands within stand at this place of a recipe."""
    token = _position.set(position)
    try:
        yield
    finally:
        _position.reset(token)


def _console(stderr: bool = False) -> Console:
    """Where to speak; of the processes that `accelerate launch` starts, only the first does."""
    return Console(stderr=stderr, highlight=False, quiet=not is_first_process())


def announce(text: str) -> None:
    """The first line of a command, once its options are read and before its work: what it is about to do."""
    position = _position.get()
    if position and position.check_only:
        raise OptionsChecked
    _console(stderr=True).print(f"{position.name}: {text}" if position else text, markup=False, soft_wrap=True)


def suggest(command: str) -> None:
    """The next command one would type."""
    position = _position.get()
    if position is None or position.last:
        _console(stderr=True).print(f"next: {command}", markup=False, soft_wrap=True)


def show_table(columns: list[str], rows: list[list[str]]) -> None:
    """A small table on standard output; the first column is text, the rest are figures."""
    table = Table(box=None, pad_edge=False, header_style="")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = _console()
    if not console.is_terminal:  # a table for a pipe is not to be cut at a width that nobody sees
        console.width = 1000
    console.print(table)


def show_record(name: str, metrics: dict[str, Any], seconds: float | None) -> None:
    """The table at the end of a training stage."""
    shown = {key.replace("_", " "): value for key, value in metrics.items()}
    show_table(["", *shown, "seconds"], [[name, *map(format_number, shown.values()), format_number(seconds)]])


def show_quantized(model: str, quantized: str, record: "StageRecord") -> None:
    """The model in floats, and what was made of it."""
    before, after = record.details["quantization"]["float"], record.metrics
    rows = [
        [model, *map(format_number, before["metrics"].values()), *(["–"] if before["metrics"] else [])],
        [quantized, *(format_number(after[name]) for name in before["metrics"])],
    ]
    if before["metrics"]:
        rows[1].append(format_number(after["agreement"]))
    for row, figures in zip(rows, (before, after), strict=True):
        row += [f"{figures['megabytes']:.1f}", f"{figures['milliseconds']:.2f}"]
    low, high = after["speedup_interval"]
    rows[0].append("reference")
    rows[1].append(f"{after['speedup']:.2f}× ({low:.2f}–{high:.2f})")
    columns = [*_spaced(before["metrics"]), *(["agreement"] if before["metrics"] else []), "MB", "p50 ms", "speed"]
    show_table([record.inputs.get("task", ""), *columns], rows)


_COLUMNS = ("agreement", "KL", "calibration error", "parameters", "MB", "ms a sentence")


def show_evaluation(result: "Evaluation") -> None:
    """What the models are worth; then what the teacher and its student get right, class by class."""
    show_table(
        [f"{result.task} ({result.examples})", *_spaced(result.models[0].metrics), *_COLUMNS],
        [_evaluation_row(model) for model in result.models],
    )
    fidelity = result.models[-1].fidelity
    if fidelity is None or not fidelity.classes:
        return
    show_table(
        ["recall", "examples", "teacher", "model", "change"],
        [
            [row.name, *map(format_number, (row.examples, row.teacher, row.model, row.change))]
            for row in fidelity.classes
        ],
    )
    show_table(
        ["right alone", "teacher", "model", "p (McNemar)"],
        [["examples", str(fidelity.teacher_only), str(fidelity.model_only), f"{fidelity.p_value:.2g}"]],
    )


def show_benchmark(result: "Benchmark") -> None:
    """A row for each model, with times of real texts at the smallest and throughput at the largest batch."""
    smallest, largest = min(result.batch_sizes), max(result.batch_sizes)
    rows = []
    for model in result.models:
        one, many, memory = model.timing(smallest), model.timing(largest), model.footprint
        low, high = one.interval
        rows.append(
            [
                model.name,
                model.backend,
                model.dtype,
                f"{model.parameters.embeddings / 1e6:.1f} + {model.parameters.encoder / 1e6:.1f} M",
                f"{model.megabytes:.1f}",
                f"{memory.peak_megabytes:.0f} (+{memory.peak_megabytes - memory.before_megabytes:.0f})",
                f"{memory.load_seconds:.2f}",
                f"{model.tokenization:.0f}",
                f"{one.p50:.2f}",
                f"{one.p95:.2f}",
                "reference" if model.name == result.reference else f"{one.speedup:.2f}× ({low:.2f}–{high:.2f})",
                f"{many.throughput:.1f}",
            ]
        )
    names = ["backend", "weights", "embeddings + encoder", "MB", "peak MB (+ model)", "load s", "tokenize µs"]
    times = [f"p50 ms ({smallest})", "p95 ms", "speed", f"texts/s ({largest})"]
    threads = result.hardware["threads"]
    show_table([f"{result.texts}, {threads} thread{'s' * (threads > 1)}", *names, *times], rows)


def show_report(result: "Report") -> None:
    """The first table of a report."""
    first = result.evaluation.models[0]
    rows = [
        [
            name,
            *map(format_number, model.metrics.values()),
            format_number(model.agreement_or_correlation),
            f"{cost.timings[0].p50:.2f}",
            f"{cost.timings[0].speedup:.2f}×",
            f"{cost.megabytes:.1f}",
            f"{cost.footprint.peak_megabytes:.0f}",
        ]
        for name, model, cost in zip(result.names, result.evaluation.models, result.benchmark.models, strict=True)
    ]
    columns = ["agreement", "p50 ms", "speed-up", "MB", "peak MB"]
    show_table([f"{result.evaluation.task} ({result.evaluation.examples})", *_spaced(first.metrics), *columns], rows)


def _evaluation_row(model: "ModelResult") -> list[str]:
    metrics = [f"{value:.4f} ({low:.3f}–{high:.3f})" for value, (low, high) in _with_intervals(model)]
    near = model.fidelity
    return [
        model.name,
        *metrics,
        format_number(model.agreement_or_correlation),
        format_number(near and near.kl),
        format_number(model.calibration and model.calibration.error),
        f"{model.parameters.total / 1e6:.1f} M",
        f"{model.megabytes:.1f}",
        f"{model.milliseconds:.2f}",
    ]


def _with_intervals(model: "ModelResult") -> list[tuple[float, tuple[float, float]]]:
    return [(value, model.intervals[name]) for name, value in model.metrics.items()]


def _spaced(names: Iterable[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def format_number(value: Any) -> str:
    """A number with as many digits as are worth reading; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def write_json(path: Path | None, content: dict[str, Any]) -> dict[str, Any]:
    """Results for machines, if a file was named; gives them back, for `tkd-hf run`."""
    if path is None:
        return content
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return content
