"""The figures: on a white ground, so that they read on dark pages, too, and by name, not by colour alone."""

from pathlib import Path

from tkd_hf.errors import InputError


try:
    from tkd_hf.reporting.figures import BLUE, GREY, RED, STYLES, plt, save
except InputError as error:  # no matplotlib
    raise SystemExit(str(error)) from None


DOTS = "dashed: teachers' mean, ± one standard error; dot and bar: mean ± standard deviation over seeds; ticks: seeds"


def dots(path: Path, content: dict) -> None:
    """A panel a task: each student's mean, its spread and its seeds, beside the teacher's line.

    Who has less than a third of the teacher's is named at the edge, so that the others can be told apart.
    """
    rows, tasks = content["rows"], content["tasks"]
    several = len({row["layers"] for row in rows}) > 1
    names = [f"{row['about']} · {row['layers']} layers" if several else row["about"] for row in rows]
    width = 0.3 + 0.075 * max(map(len, names)) + max(2.3 * len(tasks), 4.6)  # inches; a letter of the names, a panel
    figure, panels = plt.subplots(1, len(tasks), figsize=(width, 1.8 + 0.34 * len(rows)), sharey=True, squeeze=False)
    for panel, (setting, task) in zip(panels[0], tasks.items(), strict=True):
        metric = task["metrics"][0]
        for place, row in enumerate(rows):
            values = row["tasks"].get(setting, {"metrics": {}})["metrics"].get(metric)
            far = values and "teacher" in task and values["mean"] < task["teacher"][metric]["mean"] / 3
            if values is None or far:
                words = f"← {values['mean']:.3f}" if values else "missing"
                panel.text(
                    0.03, place, words, transform=panel.get_yaxis_transform(), va="center", fontsize=8, color=GREY
                )
                continue
            panel.errorbar(values["mean"], place, xerr=values["sd"], fmt="o", color=BLUE, capsize=3, zorder=3)
            panel.plot(values["values"], [place] * len(values["values"]), "|", color=GREY, markersize=9, zorder=2)
        if "teacher" in task:
            taught, error = task["teacher"][metric]["mean"], task["resolution"][metric]
            panel.axvline(taught, color=RED, linestyle="--", linewidth=1)
            panel.axvspan(taught - error, taught + error, color=RED, alpha=0.08, linewidth=0)
        panel.set_title(setting)
        panel.set_xlabel(metric.replace("_", " "))
        panel.grid(axis="x", color="#dddddd", linewidth=0.6)
        panel.margins(x=0.15)
        panel.locator_params(axis="x", nbins=4)
    panels[0][0].set_yticks(range(len(rows)), names)
    panels[0][0].set_ylim(len(rows) - 0.5, -0.5)
    save(figure, path, content["title"], DOTS)


def lines(path: Path, title: str, panels: dict[str, dict]) -> None:
    """Curves with a value at each point, a panel each.

    Args:
        path: of the picture.
        title: of the whole.
        panels: by title: `x`, `y` (names of the axes) and `curves` (name to x values and y values).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(1 + 4.6 * len(panels), 4.2), sharey=True, squeeze=False)
    for axis, (name, panel) in zip(axes[0], panels.items(), strict=True):
        for (marker, style, color), (curve, (x, y)) in zip(STYLES * 4, panel["curves"].items(), strict=False):
            axis.plot(x, y, marker=marker, linestyle=style, color=color, label=curve, markersize=5)
            for place in zip(x, y, strict=True):
                axis.annotate(short(place[1]), place, (6, -7), textcoords="offset points", fontsize=8, color=color)
        axis.set(title=name, xlabel=panel["x"], ylabel=panel["y"], xscale="log", yscale="log")
        axis.set_xticks(x, [str(value) for value in x])
        axis.minorticks_off()
        axis.margins(x=0.15)
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.legend(fontsize=8, framealpha=1)
    save(figure, path, title)


def bars(path: Path, title: str, panels: dict[str, dict[str, float]]) -> None:
    """Horizontal bars with their values written beside them, a panel each."""
    figure, axes = plt.subplots(1, len(panels), figsize=(1 + 3.6 * len(panels), 2.2), sharey=True, squeeze=False)
    for axis, (name, values) in zip(axes[0], panels.items(), strict=True):
        drawn = axis.barh(list(values), list(values.values()), color=BLUE, height=0.6)
        axis.bar_label(drawn, [f"{value:,.4g}" for value in values.values()], padding=3, fontsize=9)
        axis.set_title(name, fontsize=10)
        axis.margins(x=0.3)
        axis.set_xticks([])
    axes[0][0].invert_yaxis()
    save(figure, path, title)


def short(value: float) -> str:
    """Three figures, or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
