"""Render `report.md`: its tables and its template."""

from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..core.statistics import RESAMPLES
from ..evaluation.results import ModelResult, Report
from ..inference.timing import Timing


def markdown(report: "Report") -> str:
    """Return a report as Markdown. Its plots are expected in `pictures/` next to it."""
    environment = Environment(
        loader=PackageLoader("tkd_hf.cards", "."), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    models = dict(zip(report.names, report.evaluation.models, strict=True))
    students = {name: model for name, model in models.items() if model.fidelity}
    teacher = report.evaluation.models[0]
    return environment.get_template("report.md.jinja").render(
        report=report,
        metric=readable_name(next(iter(teacher.metrics))),
        resamples=RESAMPLES,
        overview=_overview(report, models),
        agreement=_agreement(students),
        classes=_recall_per_class(students),
        latencies=_latencies(report),
        resources=_resources(report),
        setup=_setup(report),
    )


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table. The first column is aligned to the left, the others, for numbers, to the right."""
    columns = list(columns)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def readable_name(name: str) -> str:
    """Return an identifier with spaces instead of underscores."""
    return name.replace("_", " ")


def _overview(report: "Report", models: dict[str, "ModelResult"]) -> str:
    """Return the first table: quality, speed and size of each model."""
    metrics = [readable_name(name) for name in report.evaluation.models[0].metrics]
    rows = []
    for (name, model), cost in zip(models.items(), report.benchmark.models, strict=True):
        rows.append(
            [
                name,
                *(_with_interval(value, model.intervals[metric]) for metric, value in model.metrics.items()),
                _change(model),
                _rounded(model.agreement_or_correlation),
                *_latency_and_speedup(cost.timings[0]),
                f"{model.megabytes:.1f}",
                f"{model.parameters.total / 1e6:.1f} M",
            ]
        )
    return markdown_table(
        [
            *("", *metrics, f"change of {metrics[0]} (model − teacher)", _agreement_column(models)),
            *("median latency (ms)", "speed-up", "size on disk (MB)", "parameters"),
        ],
        rows,
    )


def _agreement_column(models: dict[str, "ModelResult"]) -> str:
    students = [model for model in models.values() if model.fidelity]
    if any(model.agreement is None for model in students):
        return "correlation with the teacher"
    return "agreement with the teacher"


def _latency_and_speedup(timing: "Timing") -> list[str]:
    low, high = timing.interval
    return [f"{timing.p50:.2f}", f"{timing.speedup:.2f}× ({low:.2f}–{high:.2f})"]


def _latencies(report: "Report") -> str:
    """Return median latency and speed-up per batch size and length."""
    rows = []
    for timings in zip(*(model.timings for model in report.benchmark.models), strict=True):
        size, length = timings[0].batch_size, timings[0].length
        rows.append(
            [
                f"{size} × {length or 'real texts'}",
                *(f"{timing.p50:.2f} ({timing.speedup:.2f}×)" for timing in timings),
            ]
        )
    return markdown_table(["batch size × tokens", *report.names], rows)


def _resources(report: "Report") -> str:
    """Return the parameters, size, memory, loading time and throughput of each model."""
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
    columns = ["", "backend", "data type of the weights", "parameters: embeddings", "parameters: encoder and head"]
    columns += ["size on disk (MB)", "peak memory of the process (MB)", "seconds to load", "texts per second"]
    return markdown_table([*columns, "time to tokenize a text (µs)"], rows)


def _setup(report: "Report") -> str:
    """Return the list of models, hardware and software on which the results depend."""
    hardware, software = report.benchmark.hardware, report.benchmark.software
    names = zip(report.names, report.evaluation.models, strict=True)
    rows = {
        "models": ", ".join(f"{name}: `{model.name}`" for name, model in names),
        "processor": f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores in use",
        "accelerator": hardware["accelerator"] or "none",
        "software": ", ".join(f"{name} {version}" for name, version in software.items()),
        "timed texts": f"{report.benchmark.texts}, {report.benchmark.tokens:.1f} tokens on average",
        "finished": report.finished,
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())


def _agreement(students: dict[str, "ModelResult"]) -> str:
    """Return how far each student's predictions (or scores, in regression) agree with the teacher's."""
    if any(model.agreement is None for model in students.values()):
        rows = [
            [name, _rounded(model.fidelity.pearson), _rounded(model.fidelity.difference)]
            for name, model in students.items()
        ]
        return markdown_table(["", "correlation with the teacher", "mean absolute difference of the scores"], rows)
    rows = []
    for name, model in students.items():
        fidelity = model.fidelity
        rows.append(
            [
                name,
                _rounded(fidelity.agreement),
                _rounded(fidelity.kl),
                fidelity.teacher_only,
                fidelity.model_only,
                f"{fidelity.p_value:.2g}",
                _rounded(model.calibration.error),
            ]
        )
    columns = ["", "agreement", "KL divergence", "only the teacher is right", "only the model is right"]
    return markdown_table([*columns, "p-value", "calibration error"], rows)


def _recall_per_class(students: dict[str, "ModelResult"]) -> str:
    """Return the recall per class of the teacher and each student; an empty string for regression."""
    classes = [model.fidelity.classes for model in students.values()]
    if not classes[0]:
        return ""
    rows = []
    for same_class in zip(*classes, strict=True):  # one entry per student
        first = same_class[0]
        recalls = [_rounded(entry.model) for entry in same_class]
        rows.append([first.name, first.examples, _rounded(first.teacher), *recalls])
    return markdown_table(["class", "examples", "teacher", *students], rows)


def _change(model: "ModelResult") -> str:
    if not model.changes:
        return "–"
    change = next(iter(model.changes.values()))
    low, high = change["interval"]
    return f"{change['change']:+.4f} ({low:+.3f} to {high:+.3f})"


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.4f} ({interval[0]:.3f}–{interval[1]:.3f})"


def _rounded(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
