"""Pictures: on a white ground, so that they read on dark pages, too; by name and marker, not by colour alone."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError


try:
    import matplotlib
except ImportError:
    raise InputError('the report draws with matplotlib, which is not installed: pip install "tkd-hf[report]"') from None

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


if TYPE_CHECKING:
    from ..evaluation.calibration import Calibration
    from ..stages.report import Report


COSTS = {
    "milliseconds": "milliseconds a sentence (p50, one at a time)",
    "megabytes": "megabytes on disk",
    "memory": "megabytes of memory (peak)",
}
BLUE, GREY, RED, GREEN = "#1f5a99", "#666666", "#b3401f", "#1b7f5c"
STYLES = (
    *(("o", "-", BLUE), ("s", "--", RED), ("^", ":", GREY), ("D", "-.", GREEN)),
    *(("v", "-", RED), ("P", "--", GREY), ("X", ":", GREEN), ("*", "-.", BLUE)),
    *(("<", "-", GREEN), ("p", "--", BLUE), ("h", ":", RED), (">", "-.", GREY)),
)


def draw(report: "Report", folder: Path) -> None:
    """All pictures of a report: `pareto.png`, and what there is to show in `reliability.png` and `training.png`."""
    models = dict(zip(report.names, report.evaluation.models, strict=True))
    metric = next(iter(report.evaluation.models[0].metrics))
    points = [
        {"name": name, "value": model.metrics[metric], "interval": model.intervals[metric]}
        | {"milliseconds": cost.timings[0].p50}
        | {"megabytes": cost.megabytes, "memory": cost.footprint.peak_megabytes}
        for (name, model), cost in zip(models.items(), report.benchmark.models, strict=True)
    ]
    pareto(folder / "pareto.png", metric.replace("_", " "), points, COSTS)
    calibrated = {name: model.calibration for name, model in models.items() if model.calibration}
    if calibrated:
        reliability(folder / "reliability.png", calibrated)
    if report.logs:
        training(folder / "training.png", report.logs)


def pareto(path: Path, metric: str, models: list[dict], costs: dict[str, str]) -> None:
    """The metric against each cost, a panel each; a step line joins those that no other beats in both.

    Args:
        path: of the picture.
        metric: its name.
        models: `name`, `value`, `interval` (low and high), and each cost by its key; `None` leaves a model out.
        costs: key -> what to call it on the axis.
    """
    figure, panels = plt.subplots(1, len(costs), figsize=(1 + 4.2 * len(costs), 4.6), sharey=True, squeeze=False)
    styled = list(zip(models, STYLES * len(models), strict=False))
    for axis, (cost, title) in zip(panels[0], costs.items(), strict=True):
        drawn = [(model, style) for model, style in styled if model[cost] is not None]
        for model, (marker, _, color) in drawn:
            low, high = model["interval"]
            error = [[model["value"] - low], [high - model["value"]]]
            look = {"fmt": marker, "color": color, "capsize": 3, "markersize": 7, "elinewidth": 0.8}
            axis.errorbar(model[cost], model["value"], error, label=model["name"], **look)
        best = pareto_front([(model[cost], model["value"]) for model, _ in drawn])
        axis.step(*zip(*best, strict=True), where="post", color=GREY, linewidth=1, linestyle=":", zorder=0)
        axis.set_xlabel(title)
        axis.set_xlim(0, 1.15 * max(model[cost] for model, _ in drawn))
        axis.grid(color="#dddddd", linewidth=0.6)
    panels[0][0].set_ylabel(metric)
    legend = f"bars: 95 % interval of the {metric}; dotted: models that no other beats in both"
    save(figure, path, f"{metric} against cost", legend, shared_legend=True)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, value), those for which no other costs less and is worth as much; by cost.

    Example:

    ```python
    >>> from tkd_hf.reporting.figures import pareto_front
    >>> pareto_front([(3.0, 0.9), (1.0, 0.7), (2.0, 0.6), (4.0, 0.9)])
    [(1.0, 0.7), (3.0, 0.9)]

    ```
    """
    best = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or value > best[-1][1]:
            best.append((cost, value))
    return best


def reliability(path: Path, models: "dict[str, Calibration]") -> None:
    """Accuracy against confidence, a panel a model; the area of a dot is the share of decisions in its bin.

    Args:
        path: of the picture.
        models: their calibration, by name.
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
    save(figure, path, "Reliability", "dashed: confidence = accuracy; a dot's area: share of the decisions")


def training(path: Path, runs: dict[str, list[dict]]) -> None:
    """Losses and agreement over the steps, a row of two panels a run.

    Args:
        path: of the picture.
        runs: by name, the Trainer's log.
    """
    figure, panels = plt.subplots(len(runs), 2, figsize=(10, 0.8 + 3 * len(runs)), squeeze=False)
    for (left, right), (name, log) in zip(panels, runs.items(), strict=True):
        _curves(left, log, lambda key: key == "loss" or key.startswith("loss_") or key == "eval_loss")
        _curves(right, log, lambda key: key in ("agreement", "eval_agreement", "eval_accuracy"))
        left.set(title=name, ylabel="loss")
        right.set(title=name, ylabel="share of examples")
    save(figure, path, "Training")


def _curves(axis: Axes, log: list[dict], wanted: Callable[[str], bool]) -> None:
    names = list(dict.fromkeys(key for entry in log for key in entry if wanted(key)))
    if not names:
        axis.set_visible(False)
        return
    for (marker, style, color), name in zip(STYLES * 3, names, strict=False):
        points = [(entry["step"], entry[name]) for entry in log if name in entry]
        label = name.removeprefix("loss_").replace("eval_", "evaluated ")
        axis.plot(*zip(*points, strict=True), style, color=color, marker=marker, markersize=4, label=label)
    axis.set_xlabel("step")
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.legend(fontsize=8, framealpha=1)


def save(figure: Figure, path: Path, title: str, legend: str = "", shared_legend: bool = False) -> None:
    """Writes a figure with its title, and a line beneath that says how to read it.

    Args:
        figure: all drawn.
        path: of the picture.
        title: above.
        legend: beneath.
        shared_legend: name below the title, once for all panels, what has a label in any.
    """
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(legend, fontsize=8, color=GREY)
    figure.tight_layout(rect=(0, 0, 1, 1 - (_name_once(figure) if shared_legend else 0.0)))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white")
    plt.close(figure)


def _name_once(figure: Figure) -> float:
    """One legend for all panels, in rows of names that fit beside each other; the share of the height that it takes."""
    named = {name: look for axis in figure.axes for look, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = max(1, int(figure.get_figwidth() / (0.7 + 0.09 * max(map(len, named)))))  # inches of a marker, a letter
    row = 0.276 / figure.get_figheight()
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 1 - row)}
    figure.legend(named.values(), named, ncols=columns, fontsize=9, frameon=False, **place)
    return row * -(-len(named) // columns)
