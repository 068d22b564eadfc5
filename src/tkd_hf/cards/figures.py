"""Plots for reports: quality against cost, reliability diagrams, training curves.

Plots have a white background, so that they stay readable on dark pages. Models differ in marker as well as in colour.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..core.errors import InputError
from ..evaluation.calibration import Calibration
from ..evaluation.columns import LATENCY, PEAK_MEMORY, SIZE, readable_name
from ..evaluation.metrics import higher_is_better
from ..evaluation.results import Report


try:
    import matplotlib

    matplotlib.use("Agg")

    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError:
    matplotlib = None  # type: ignore[assignment]  # a module otherwise


# cost of a model -> label of its axis
COSTS = {"milliseconds": LATENCY.heading, "megabytes": SIZE.heading, "memory": PEAK_MEMORY.heading}
BLUE, GREY, RED, GREEN = "#1f5a99", "#666666", "#b3401f", "#1b7f5c"
STYLES = (
    *(("o", "-", BLUE), ("s", "--", RED), ("^", ":", GREY), ("D", "-.", GREEN)),
    *(("v", "-", RED), ("P", "--", GREY), ("X", ":", GREEN), ("*", "-.", BLUE)),
    *(("<", "-", GREEN), ("p", "--", BLUE), ("h", ":", RED), (">", "-.", GREY)),
)


def check_installed() -> None:
    """Raise an `InputError` if matplotlib, which is optional, is not installed."""
    if matplotlib is None:
        raise InputError('reports need matplotlib, which is not installed: pip install "tkd-hf[report]"')


def draw(report: Report, folder: Path) -> None:
    """Draw all plots of a report into a folder.

    Always draws `pareto.png`. Draws `reliability.png` if the task has classes, and `training.png` if a folder contains
    the Trainer's log.

    Args:
        report: the measurements.
        folder: the folder, which is created if necessary.
    """
    models = dict(zip(map(plain_label, report.names), report.evaluation.models, strict=True))
    metric = next(iter(report.evaluation.models[0].metrics))
    points = [
        {
            "name": name,
            "value": model.metrics[metric],
            "interval": model.intervals[metric],
            "milliseconds": cost.timings[0].p50,
            "megabytes": cost.megabytes,
            "memory": cost.footprint.peak_megabytes,
        }
        for (name, model), cost in zip(models.items(), report.benchmark.models, strict=True)
    ]
    pareto(folder / "pareto.png", readable_name(metric), points, COSTS, higher_is_better(metric))
    calibrations = {name: model.calibration for name, model in models.items() if model.calibration}
    if calibrations:
        reliability(folder / "reliability.png", calibrations)
    if report.logs:
        training(folder / "training.png", {plain_label(name): log for name, log in report.logs.items()})


def plain_label(name: str) -> str:
    """Return a name so that a plot shows it as it is.

    matplotlib reads text between `$` as mathematics, and hides labels that start with `_`.

    Example:

    ```python
    >>> from tkd_hf.cards.figures import plain_label
    >>> plain_label("a$b$"), plain_label("_x")
    ('a\\\\$b\\\\$', ' _x')

    ```
    """
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def pareto(path: Path, metric: str, models: list[dict], costs: dict[str, str], higher_is_better: bool = True) -> None:
    """Plot a metric against each cost, one panel per cost, with a line through the Pareto front.

    Args:
        path: the image file.
        metric: name of the metric, for the axis.
        models: per model `name`, `value`, `interval` (low and high), and each cost by its key. A cost of `None` leaves
            the model out of that panel.
        costs: label of the axis per cost.
        higher_is_better: whether larger values of the metric are better.
    """
    sign = 1 if higher_is_better else -1
    figure, panels = plt.subplots(1, len(costs), figsize=(1 + 4.2 * len(costs), 4.6), sharey=True, squeeze=False)
    models_with_style = list(zip(models, STYLES * len(models), strict=False))
    for axis, (cost, label) in zip(panels[0], costs.items(), strict=True):
        shown = [(model, style) for model, style in models_with_style if model[cost] is not None]
        for model, (marker, _, color) in shown:
            low, high = model["interval"]
            error = [[model["value"] - low], [high - model["value"]]]
            look = {"fmt": marker, "color": color, "capsize": 3, "markersize": 7, "elinewidth": 0.8}
            axis.errorbar(model[cost], model["value"], error, label=model["name"], **look)
        front = pareto_front([(model[cost], sign * model["value"]) for model, _ in shown])
        costs_of_front, values = zip(*front, strict=True)
        axis.step(
            costs_of_front,
            [sign * value for value in values],
            where="post",
            color=GREY,
            linewidth=1,
            linestyle=":",
            zorder=0,
        )
        axis.set_xlabel(label)
        axis.set_xlim(0, 1.15 * max(model[cost] for model, _ in shown))
        axis.grid(color="#dddddd", linewidth=0.6)
    panels[0][0].set_ylabel(metric)
    caption = f"bars: 95 % confidence interval of the {metric}; dotted line: Pareto front"
    save(figure, path, f"{metric} against cost", caption, shared_legend=True)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, value) for which no other point has a lower cost and at least the same value.

    The result is sorted by cost.

    Example:

    ```python
    >>> from tkd_hf.cards.figures import pareto_front
    >>> pareto_front([(3.0, 0.9), (1.0, 0.7), (2.0, 0.6), (4.0, 0.9)])
    [(1.0, 0.7), (3.0, 0.9)]

    ```
    """
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def reliability(path: Path, models: dict[str, Calibration]) -> None:
    """Plot accuracy against confidence, one panel per model; the area of a dot is the share of predictions in its bin.

    Args:
        path: the image file.
        models: the calibration of each model, by name.
    """
    columns = min(4, len(models))
    rows = -(-len(models) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(1 + 3 * columns, 0.8 + 3.2 * rows), squeeze=False)
    for axis, (name, calibration) in zip(panels.flat, models.items(), strict=False):
        bins = calibration.bins
        total = sum(part["count"] for part in bins)
        confidence, accuracy = ([part[key] for part in bins] for key in ("confidence", "accuracy"))
        axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        axis.plot(confidence, accuracy, color=BLUE, linewidth=1)
        axis.scatter(confidence, accuracy, [12 + 300 * part["count"] / total for part in bins], color=BLUE, alpha=0.75)
        axis.set(title=f"{name}\ncalibration error {calibration.error:.3f}", xlabel="confidence", ylabel="accuracy")
        axis.title.set_fontsize(10)
        axis.set_xlim(min(0.45, *confidence) - 0.03, 1.03)
        axis.set_ylim(-0.03, 1.05)
        axis.grid(color="#dddddd", linewidth=0.6)
    for axis in panels.flat[len(models) :]:
        axis.set_visible(False)
    caption = "dashed line: confidence equals accuracy; area of a dot: share of the predictions"
    save(figure, path, "Reliability: accuracy against confidence", caption)


def training(path: Path, runs: dict[str, list[dict]]) -> None:
    """Plot losses and agreement against the training step, two panels per run.

    Args:
        path: the image file.
        runs: the Trainer's log of each run, by name.
    """
    figure, panels = plt.subplots(len(runs), 2, figsize=(10, 0.8 + 3 * len(runs)), squeeze=False)
    for (left, right), (name, log) in zip(panels, runs.items(), strict=True):
        _curves(left, log, lambda key: key in ("loss", "eval_loss") or key.startswith("loss_"))
        _curves(right, log, lambda key: key in ("agreement", "eval_agreement", "eval_accuracy"))
        left.set(title=name, ylabel="loss")
        right.set(title=name, ylabel="share of examples")
    has_objectives = any(key.startswith("loss_") for log in runs.values() for entry in log for key in entry)
    caption = "loss: weighted sum of the objectives, which have a curve each" if has_objectives else ""
    save(figure, path, "Training curves", caption)


def _curves(axis: Axes, log: list[dict], is_shown: Callable[[str], bool]) -> None:
    """Plot the values of a log whose keys pass a test; hide an empty panel."""
    keys = list(dict.fromkeys(key for entry in log for key in entry if is_shown(key)))
    if not keys:
        axis.set_visible(False)
        return
    for (marker, style, color), key in zip(STYLES * 3, keys, strict=False):
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        label = key.removeprefix("loss_").replace("eval_", "evaluation ")
        axis.plot(*zip(*points, strict=True), style, color=color, marker=marker, markersize=4, label=label)
    axis.set_xlabel("step")
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.legend(fontsize=8, framealpha=1)


def save(figure: Figure, path: Path, title: str, caption: str = "", shared_legend: bool = False) -> None:
    """Add a title and a caption to a figure, write it to a file, and close it.

    Args:
        figure: the figure with all its panels.
        path: the image file; its folder is created if necessary.
        title: the text above the panels.
        caption: the text below the panels, which explains how to read them.
        shared_legend: add one legend for all panels below the title.
    """
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(caption, fontsize=8, color=GREY)
    figure.tight_layout(rect=(0, 0, 1, 1 - (_add_shared_legend(figure) if shared_legend else 0.0)))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white")
    plt.close(figure)


def _add_shared_legend(figure: Figure) -> float:
    """Add one legend for all panels, in rows that fit the width; return the share of the height that it takes."""
    handles = {
        name: handle for axis in figure.axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    # in inches: 0.7 for a marker and its spacing, 0.09 per character
    columns = max(1, int(figure.get_figwidth() / (0.7 + 0.09 * max(map(len, handles)))))
    row_height = 0.276 / figure.get_figheight()
    position = (0.5, 1 - row_height)
    names, style = list(handles), {"fontsize": 9, "frameon": False}
    figure.legend(list(handles.values()), names, ncols=columns, loc="upper center", bbox_to_anchor=position, **style)
    return row_height * -(-len(handles) // columns)
