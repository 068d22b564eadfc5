"""`report.md`: the tables, and the template that they stand in."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..evaluation.intervals import RESAMPLES


if TYPE_CHECKING:
    from ..evaluation.benchmark import Timing
    from ..stages.evaluate import ModelResult
    from ..stages.report import Report


def markdown(report: "Report") -> str:
    """The report as Markdown; the pictures stand in `pictures/` beside it."""
    environment = Environment(
        loader=PackageLoader("tkd_hf.reporting", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    models = dict(zip(report.names, report.evaluation.models, strict=True))
    students = {name: model for name, model in models.items() if model.fidelity}
    first = report.evaluation.models[0]
    return environment.get_template("report.md.jinja").render(
        report=report,
        metric=readable_name(next(iter(first.metrics))),
        resamples=RESAMPLES,
        worth=_worth(report, models),
        near=_near(students),
        classes=_classes(students),
        grid=_grid(report),
        resources=_resources(report),
        measured=_measured(report),
    )


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown; the first column is text, the others are figures."""
    columns = list(columns)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def readable_name(name: str) -> str:
    return name.replace("_", " ")


def _worth(report: "Report", models: dict[str, "ModelResult"]) -> str:
    """The table people decide on."""
    metrics = [readable_name(name) for name in report.evaluation.models[0].metrics]
    rows = [
        [
            name,
            *(_with_interval(value, model.intervals[metric]) for metric, value in model.metrics.items()),
            _change(model),
            _figure(model.agreement_or_correlation),
            *_speed(report.benchmark.models[place].timings[0]),
            f"{model.megabytes:.1f}",
            f"{model.parameters.total / 1e6:.1f} M",
        ]
        for place, (name, model) in enumerate(models.items())
    ]
    columns = ["", *metrics, f"change of {metrics[0]}", "agreement", "p50 ms", "speed-up", "MB", "parameters"]
    return markdown_table(columns, rows)


def _speed(timing: "Timing") -> list[str]:
    low, high = timing.interval
    return [f"{timing.p50:.2f}", f"{timing.speedup:.2f}× ({low:.2f}–{high:.2f})"]


def _grid(report: "Report") -> str:
    """Median milliseconds and speed-up for every shape of batch."""
    timings = zip(*(model.timings for model in report.benchmark.models), strict=True)
    rows = [
        [
            f"{row[0].batch_size} × {row[0].length or 'real texts'}",
            *(f"{one.p50:.2f} ({one.speedup:.2f}×)" for one in row),
        ]
        for row in timings
    ]
    return markdown_table(["milliseconds: batch × tokens", *report.names], rows)


def _resources(report: "Report") -> str:
    rows = [
        [
            name,
            cost.backend,
            cost.dtype,
            f"{cost.parameters.embeddings / 1e6:.1f} M",
            f"{cost.parameters.encoder / 1e6:.1f} M",
            f"{cost.megabytes:.1f}",
            f"{cost.footprint.peak_megabytes:.0f}",
            f"{cost.footprint.load_seconds:.2f}",
            f"{max(timing.throughput for timing in cost.timings if timing.length is None):.0f}",
            f"{cost.tokenization:.0f}",
        ]
        for name, cost in zip(report.names, report.benchmark.models, strict=True)
    ]
    columns = ["", "backend", "weights", "embeddings", "encoder and head", "MB on disk", "peak MB of memory"]
    return markdown_table([*columns, "seconds to load", "texts a second", "µs to tokenise a text"], rows)


def _measured(report: "Report") -> str:
    """What the figures depend on."""
    hardware, software = report.benchmark.hardware, report.benchmark.software
    rows = {
        "models": ", ".join(
            f"{name}: `{model.name}`" for name, model in zip(report.names, report.evaluation.models, strict=True)
        ),
        "processor": f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores in use",
        "accelerator": hardware["accelerator"] or "none",
        "software": ", ".join(f"{name} {version}" for name, version in software.items()),
        "timed texts": f"{report.benchmark.texts}, {report.benchmark.tokens:.1f} tokens on average",
        "finished": report.finished,
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())


def _near(students: dict[str, "ModelResult"]) -> str:
    if any(model.fidelity.agreement is None for model in students.values()):
        rows = [[name, _figure(m.fidelity.pearson), _figure(m.fidelity.difference)] for name, m in students.items()]
        return markdown_table(["", "correlation with the teacher", "mean difference"], rows)
    rows = [
        [
            name,
            _figure(near.agreement),
            _figure(near.kl),
            near.teacher_only,
            near.model_only,
            f"{near.p_value:.2g}",
            _figure(model.calibration.error),
        ]
        for name, model in students.items()
        for near in [model.fidelity]
    ]
    return markdown_table(["", "agreement", "KL", "teacher right alone", "right alone", "p", "calibration error"], rows)


def _classes(students: dict[str, "ModelResult"]) -> str:
    """Recall by class, of the teacher and each student; nothing for scores."""
    lists = [model.fidelity.classes for model in students.values()]
    if not lists[0]:
        return ""
    rows = [
        [row[0].name, row[0].examples, _figure(row[0].teacher), *(_figure(one.model) for one in row)]
        for row in zip(*lists, strict=True)
    ]
    return markdown_table(["class", "examples", "teacher", *students], rows)


def _change(model: "ModelResult") -> str:
    if not model.changes:
        return "–"
    found = next(iter(model.changes.values()))
    low, high = found["interval"]
    return f"{found['change']:+.4f} ({low:+.3f} to {high:+.3f})"


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.4f} ({interval[0]:.3f}–{interval[1]:.3f})"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
