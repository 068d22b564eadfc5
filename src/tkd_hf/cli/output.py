"""The console: announcements and suggestions go to standard error, results to standard output."""

import json
from collections.abc import Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..core.errors import InputError
from ..core.processes import is_first_process


if TYPE_CHECKING:
    from ..evaluation.results import Benchmark, Evaluation, ModelResult, Report
    from ..records.run_folder import StageRecord


@dataclass(frozen=True)
class RecipePosition:
    """Position of a command within a recipe.

    Args:
        name: such as `stage 2 of 3`.
        last: whether this is the last stage; only the last one suggests a next command.
        check_only: whether the command only checks its options. It then raises `OptionsChecked` instead of working.
    """

    name: str
    last: bool = True
    check_only: bool = False


class OptionsChecked(Exception):
    """Raised after a command has checked its options, if its recipe position is `check_only`."""


_position: ContextVar[RecipePosition | None] = ContextVar("position", default=None)


@contextmanager
def at_position(position: RecipePosition):
    """Context in which commands run as a stage of a recipe."""
    token = _position.set(position)
    try:
        yield
    finally:
        _position.reset(token)


def _console(stderr: bool = False) -> Console:
    """Return a console; of the processes that `accelerate launch` starts, only the first one prints."""
    return Console(stderr=stderr, highlight=False, quiet=not is_first_process())


def announce(text: str) -> None:
    """Print the first line of a command; call it once all options are checked and before any work."""
    position = _position.get()
    if position and position.check_only:
        raise OptionsChecked
    _console(stderr=True).print(f"{position.name}: {text}" if position else text, markup=False, soft_wrap=True)


def suggest(command: str) -> None:
    """Print a command to run next."""
    position = _position.get()
    if position is None or position.last:
        _console(stderr=True).print(f"next: {command}", markup=False, soft_wrap=True)


def show_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on standard output; the first column is aligned left, the others right."""
    table = Table(box=None, pad_edge=False, header_style="")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = _console()
    if not console.is_terminal:  # do not truncate a table that goes to a pipe or a file
        console.width = 1000
    console.print(table)


def show_record(name: str, metrics: dict[str, Any], seconds: float | None) -> None:
    """Print the metrics of a training stage."""
    columns = ["", *_spaced(metrics), "seconds"]
    show_table(columns, [[name, *map(format_number, metrics.values()), format_number(seconds)]])


def show_quantized(model: str, quantized: str, record: "StageRecord") -> None:
    """Print the float model and the quantized one."""
    before, after = record.details["quantization"]["float"], record.metrics
    names = list(before["metrics"])
    columns, float_row, quantized_row = [], [model], [quantized]
    if names:
        columns = [*_spaced(names), "agreement"]
        float_row += [*map(format_number, before["metrics"].values()), "–"]
        quantized_row += [format_number(after[name]) for name in (*names, "agreement")]
    for row, results in ((float_row, before), (quantized_row, after)):
        row += [f"{results['megabytes']:.1f}", f"{results['milliseconds']:.2f}"]
    low, high = after["speedup_interval"]
    float_row.append("reference")
    quantized_row.append(f"{after['speedup']:.2f}× ({low:.2f}–{high:.2f})")
    show_table([record.inputs.get("task", ""), *columns, "MB", "p50 ms", "speed"], [float_row, quantized_row])


_COLUMNS = ("agreement", "KL", "calibration error", "parameters", "MB", "ms per text")


def show_evaluation(result: "Evaluation") -> None:
    """Print the metrics of the models; for the last one also how teacher and model do in each class."""
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
        ["only one is correct", "teacher", "model", "p (McNemar)"],
        [["examples", str(fidelity.teacher_only), str(fidelity.model_only), f"{fidelity.p_value:.2g}"]],
    )


def show_benchmark(result: "Benchmark") -> None:
    """Print a row per model: latency for real texts at the smallest batch size, throughput at the largest."""
    smallest, largest = min(result.batch_sizes), max(result.batch_sizes)
    rows = []
    for model in result.models:
        latency, throughput, memory = model.timing(smallest), model.timing(largest), model.footprint
        low, high = latency.interval
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
                f"{latency.p50:.2f}",
                f"{latency.p95:.2f}",
                "reference" if model.name == result.reference else f"{latency.speedup:.2f}× ({low:.2f}–{high:.2f})",
                f"{throughput.throughput:.1f}",
            ]
        )
    names = ["backend", "weights", "embeddings + encoder", "MB", "peak MB (+ model)", "load s", "tokenize µs"]
    times = [f"p50 ms ({smallest})", "p95 ms", "speed", f"texts/s ({largest})"]
    threads = result.hardware["threads"]
    show_table([f"{result.texts}, {threads} thread{'s' * (threads > 1)}", *names, *times], rows)


def show_report(result: "Report") -> None:
    """Print the first table of a report."""
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
    return [
        model.name,
        *metrics,
        format_number(model.agreement_or_correlation),
        format_number(model.fidelity and model.fidelity.kl),
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
    """Format a number with at most four decimals, and `None` as a dash."""
    if value is None:
        return "–"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def write_json(path: Path | None, content: dict[str, Any]) -> dict[str, Any]:
    """Write results as JSON if a file is named, and return them for `tkd-hf run`."""
    if path is None:
        return content
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return content
