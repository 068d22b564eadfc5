"""The tables of a card: a model beside its teacher, from the report's figures."""

from typing import Any

from ..reporting.tables import markdown_table, readable_name


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


def key_value_table(rows: dict[str, Any], head: str) -> str:
    """Names and what they are, under a head."""
    return "\n".join(
        [f"| {head} | |", "| --- | --- |", *(f"| {escape_cell(k)} | {escape_cell(v)} |" for k, v in rows.items())]
    )


def metrics_table(evaluation: dict[str, Any]) -> str:
    """The task's metrics of both, with intervals, and what lies between them."""
    teacher, model = evaluation["models"]
    rows = []
    for metric, value in model["metrics"].items():
        change = model["changes"][metric]
        rows.append(
            [
                readable_name(metric),
                _within(teacher["metrics"][metric], teacher["intervals"][metric]),
                _within(value, model["intervals"][metric]),
                f"{change['change']:+.4f} ({change['interval'][0]:+.3f} to {change['interval'][1]:+.3f})",
            ]
        )
    if model["calibration"]:
        rows.append(["calibration error", *(f"{one['calibration']['error']:.4f}" for one in (teacher, model)), ""])
    return markdown_table(["", "teacher", "this model", "change"], rows)


def agreement_table(evaluation: dict[str, Any]) -> str:
    """How near the two are."""
    near = evaluation["models"][1]["fidelity"]
    if near["agreement"] is None:
        return key_value_table(
            {"correlation with the teacher": near["pearson"], "mean difference": near["difference"]}, "of the scores"
        )
    return key_value_table(
        {
            "answered as the teacher does": f"{near['agreement']:.2%}",
            "divergence from the teacher (KL, nats)": f"{near['kl']:.4f}",
            "right where the teacher is wrong": near["model_only"],
            "wrong where the teacher is right": near["teacher_only"],
            "p (McNemar's exact test of these two)": f"{near['p_value']:.2g}",
        },
        "of the examples",
    )


def recall_table(evaluation: dict[str, Any]) -> str:
    """Recall by class; nothing for scores."""
    rows = evaluation["models"][1]["fidelity"]["classes"]
    if not rows:
        return ""
    lines = [
        [escape_cell(row["name"]), row["examples"], *(_share(row[who]) for who in ("teacher", "model"))] for row in rows
    ]
    return markdown_table(["class", "examples", "teacher", "this model"], lines)


def speed_table(benchmark: dict[str, Any]) -> str:
    """Latency, size and memory of both."""
    both = benchmark["models"]
    smallest, largest = min(benchmark["batch_sizes"]), max(benchmark["batch_sizes"])

    def timing(model: dict[str, Any], size: int) -> dict[str, Any]:
        return next(one for one in model["timings"] if (one["batch_size"], one["length"]) == (size, None))

    ones = [timing(model, smallest) for model in both]
    low, high = ones[1]["interval"]
    rows = {
        f"milliseconds, batch of {smallest}: median": [f"{one['p50']:.2f}" for one in ones],
        f"milliseconds, batch of {smallest}: 95th percentile": [f"{one['p95']:.2f}" for one in ones],
        "times as fast": ["1", f"{ones[1]['speedup']:.2f} ({low:.2f}–{high:.2f})"],
        f"texts a second, batch of {largest}": [f"{timing(model, largest)['throughput']:.0f}" for model in both],
        "parameters": [f"{sum(model['parameters'].values()) / 1e6:.1f} M" for model in both],
        "of these in embeddings": [f"{model['parameters']['embeddings'] / 1e6:.1f} M" for model in both],
        "MB on disk": [f"{model['megabytes']:.1f}" for model in both],
        "peak MB of memory": [f"{model['footprint']['peak_megabytes']:.0f}" for model in both],
        "seconds to load": [f"{model['footprint']['load_seconds']:.2f}" for model in both],
        "weights": [model["dtype"] for model in both],
        "runs in": [model["backend"] for model in both],
    }
    return markdown_table(["", "teacher", "this model"], [[name, *row] for name, row in rows.items()])


def escape_cell(text: Any) -> str:
    """A text that breaks no table, and makes no marks of a page."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _within(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.4f} ({interval[0]:.3f}–{interval[1]:.3f})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
