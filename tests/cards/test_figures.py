"""Plots of reports: they show all models, have readable legends, and leave out missing data."""

import pytest

from tkd_hf.cards import figures
from tkd_hf.core.errors import InputError
from tkd_hf.evaluation.calibration import Calibration


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 0.5)], [(1, 0.5)]),
        ([(3, 0.9), (1, 0.7), (2, 0.6), (4, 0.9)], [(1, 0.7), (3, 0.9)]),
        ([(1, 0.5), (1, 0.6)], [(1, 0.6)]),
        ([(1, 0.9), (2, 0.8)], [(1, 0.9)]),
    ],
)
def test_pareto_front_has_no_point_that_another_beats_in_cost_and_value(points, front):
    assert figures.pareto_front(points) == front


def measured_model(name, value, cost):
    return {"name": name, "value": value, "interval": (value - 0.02, value + 0.02), "ms": cost, "mb": None}


def keep_open(monkeypatch):
    """Return a list that collects the figures, which are not closed."""
    open_figures = []
    monkeypatch.setattr(figures.plt, "close", open_figures.append)
    return open_figures


def legend_names(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].texts]


@pytest.mark.parametrize(("length", "count"), [(5, 12), (40, 5)])
def test_pareto_plot_has_distinct_markers_and_a_legend_inside_the_image(tmp_path, monkeypatch, length, count):
    open_figures = keep_open(monkeypatch)
    models = [measured_model("x" * length + str(number), 0.7 + number / 100, 5.0) for number in range(count)]
    figures.pareto(tmp_path / "p" / "pareto.png", "accuracy", models, {"ms": "milliseconds"})
    assert (tmp_path / "p" / "pareto.png").stat().st_size > 10_000
    assert legend_names(open_figures[0]) == [model["name"] for model in models]
    (axis,) = open_figures[0].axes
    looks = {(points.lines[0].get_marker(), points.lines[0].get_color()) for points in axis.containers}
    assert len(looks) == count
    legend = open_figures[0].legends[0].get_window_extent()
    assert (legend.x0 >= 0, legend.x1 <= open_figures[0].bbox.x1) == (True, True)
    assert not legend.overlaps(axis.get_window_extent())
    assert axis.get_xlim()[0] == 0


def test_model_with_unknown_cost_is_left_out_of_that_panel(tmp_path, monkeypatch):
    open_figures = keep_open(monkeypatch)
    models = [measured_model("a", 0.9, 10.0) | {"mb": 3.0}, measured_model("b", 0.8, 5.0)]
    figures.pareto(tmp_path / "pareto.png", "accuracy", models, {"ms": "milliseconds", "mb": "megabytes"})
    assert [[part.get_label() for part in axis.containers] for axis in open_figures[0].axes] == [["a", "b"], ["a"]]
    assert legend_names(open_figures[0]) == ["a", "b"]


def test_reliability_plot_has_one_panel_per_model(tmp_path, monkeypatch):
    open_figures = keep_open(monkeypatch)
    bins = [{"from": 0.6, "to": 0.7, "confidence": 0.65, "accuracy": 0.5, "count": 3}]
    figures.reliability(tmp_path / "r.png", {name: Calibration(0.15, bins) for name in "abcde"})
    titles = [axis.get_title() for axis in open_figures[0].axes if axis.get_visible()]
    assert titles == [f"{name}\ncalibration error 0.150" for name in "abcde"]


def test_training_plot_shows_each_loss_and_agreement(tmp_path, monkeypatch):
    open_figures = keep_open(monkeypatch)
    log = [
        {"step": 1, "loss": 2.0, "loss_logits": 2.5, "agreement": 0.5, "learning_rate": 1e-4},
        {"step": 2, "loss": 1.0, "loss_logits": 1.5, "agreement": 0.75},
        {"step": 2, "eval_loss": 1.2, "eval_agreement": 0.7, "eval_runtime": 3.0},
    ]
    figures.training(tmp_path / "t.png", {"run": log})
    left, right = open_figures[0].axes
    assert [line.get_label() for line in left.lines] == ["loss", "logits", "evaluation loss"]
    assert [line.get_label() for line in right.lines] == ["agreement", "evaluation agreement"]
    assert left.lines[1].get_xydata().tolist() == [[1, 2.5], [2, 1.5]]


def test_training_plot_hides_the_panel_of_missing_agreement(tmp_path, monkeypatch):
    open_figures = keep_open(monkeypatch)
    figures.training(tmp_path / "t.png", {"run": [{"step": 1, "loss": 2.0}]})
    assert [axis.get_visible() for axis in open_figures[0].axes] == [True, False]


def test_missing_matplotlib_is_named_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr(figures, "matplotlib", None)
    with pytest.raises(InputError, match=r'not installed: pip install "tkd-hf\[report\]"'):
        figures.check_installed()
