"""The tables of a card, in Markdown; results come from `report.json`, the teacher's first."""

from typing import Any

from .report_tables import markdown_table, readable_name


__all__ = [
    "agreement_table",
    "escape_cell",
    "key_value_table",
    "markdown_table",
    "metrics_table",
    "readable_name",
    "recall_table",
    "speed_table",
]


def key_value_table(rows: dict[str, Any], title: str) -> str:
    """Return a table of two columns, name and value; the title is the header of the first one."""
    lines = [f"| {escape_cell(name)} | {escape_cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"| {title} | |", "| --- | --- |", *lines])


def metrics_table(evaluation: dict[str, Any]) -> str:
    """Return the task's metrics of teacher and student, and their difference, with confidence intervals."""
    teacher, student = evaluation["models"]
    rows = []
    for metric, value in student["metrics"].items():
        change = student["changes"][metric]
        low, high = change["interval"]
        rows.append(
            [
                readable_name(metric),
                _with_interval(teacher["metrics"][metric], teacher["intervals"][metric]),
                _with_interval(value, student["intervals"][metric]),
                f"{change['change']:+.4f} ({low:+.3f} to {high:+.3f})",
            ]
        )
    if student["calibration"]:
        errors = [f"{model['calibration']['error']:.4f}" for model in (teacher, student)]
        rows.append(["calibration error", *errors, ""])
    return markdown_table(["", "teacher", "this model", "difference (this model − teacher)"], rows)


def agreement_table(evaluation: dict[str, Any]) -> str:
    """Return how far the student's predictions (or scores, in regression) agree with the teacher's."""
    fidelity = evaluation["models"][1]["fidelity"]
    if fidelity["agreement"] is None:
        return key_value_table(
            {
                "Pearson correlation with the teacher's scores": _rounded(fidelity["pearson"]),
                "mean absolute difference from the teacher's scores": _rounded(fidelity["difference"]),
            },
            "scores of this model and the teacher",
        )
    return key_value_table(
        {
            "same prediction as the teacher (agreement)": f"{fidelity['agreement']:.2%}",
            "KL divergence from the teacher's probabilities, in nats": f"{fidelity['kl']:.4f}",
            "examples that only this model gets right": fidelity["model_only"],
            "examples that only the teacher gets right": fidelity["teacher_only"],
            "p-value of the two rows above (McNemar's exact test)": f"{fidelity['p_value']:.2g}",
        },
        "predictions of this model and the teacher",
    )


def recall_table(evaluation: dict[str, Any]) -> str:
    """Return the recall per class; an empty string for regression."""
    classes = evaluation["models"][1]["fidelity"]["classes"]
    if not classes:
        return ""
    rows = [
        [escape_cell(row["name"]), row["examples"], _rounded(row["teacher"]), _rounded(row["model"])] for row in classes
    ]
    return markdown_table(["class", "examples", "recall of the teacher", "recall of this model"], rows)


def speed_table(benchmark: dict[str, Any]) -> str:
    """Return latency, throughput, size and memory of teacher and student."""
    models = benchmark["models"]
    smallest, largest = min(benchmark["batch_sizes"]), max(benchmark["batch_sizes"])

    def timing(model: dict[str, Any], batch_size: int) -> dict[str, Any]:
        """Return the timing with real texts, which has no fixed length."""
        return next(
            timing for timing in model["timings"] if timing["batch_size"] == batch_size and timing["length"] is None
        )

    timings = [timing(model, smallest) for model in models]
    low, high = timings[1]["interval"]
    rows = {
        f"median latency, batch of {smallest} (ms)": [f"{entry['p50']:.2f}" for entry in timings],
        f"95th percentile of the latency, batch of {smallest} (ms)": [f"{entry['p95']:.2f}" for entry in timings],
        "speed-up over the teacher": ["1", f"{timings[1]['speedup']:.2f} ({low:.2f}–{high:.2f})"],
        f"texts per second, batches of {largest}": [f"{timing(model, largest)['throughput']:.0f}" for model in models],
        "parameters": [f"{sum(model['parameters'].values()) / 1e6:.1f} M" for model in models],
        "parameters in the embeddings": [f"{model['parameters']['embeddings'] / 1e6:.1f} M" for model in models],
        "size on disk (MB)": [f"{model['megabytes']:.1f}" for model in models],
        "peak memory of the process (MB)": [f"{model['footprint']['peak_megabytes']:.0f}" for model in models],
        "seconds to load": [f"{model['footprint']['load_seconds']:.2f}" for model in models],
        "data type of the weights": [model["dtype"] for model in models],
        "backend": [model["backend"] for model in models],
    }
    return markdown_table(["", "teacher", "this model"], [[name, *values] for name, values in rows.items()])


def escape_cell(text: Any) -> str:
    """Return a text on one line, with the characters escaped that would break a table or a section marker."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.4f} ({interval[0]:.3f}–{interval[1]:.3f})"


def _rounded(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
