"""Pictures: that they are drawn of what they are given, and are there to be looked at."""

import importlib
import sys

import pytest

from tkd_hf.errors import InputError
from tkd_hf.evaluation.calibration import Calibration
from tkd_hf.report import figures


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([(1, 0.5)], [(1, 0.5)]),
        ([(3, 0.9), (1, 0.7), (2, 0.6), (4, 0.9)], [(1, 0.7), (3, 0.9)]),
        ([(1, 0.5), (1, 0.6)], [(1, 0.6)]),
        ([(1, 0.9), (2, 0.8)], [(1, 0.9)]),
    ],
)
def test_the_front_is_what_no_other_beats_in_both(points, best):
    assert figures.front(points) == best


def model(name, value, cost):
    return {"name": name, "value": value, "interval": (value - 0.02, value + 0.02), "ms": cost, "mb": None}


def drawn(monkeypatch):
    """The figure is kept instead of closed."""
    kept = []
    monkeypatch.setattr(figures.plt, "close", kept.append)
    return kept


def test_names_stand_beside_their_points_and_apart(tmp_path, monkeypatch):
    kept = drawn(monkeypatch)
    models = [model("teacher", 0.9, 10.0), model("one", 0.88, 5.0), model("two", 0.88, 5.1)]
    figures.pareto(tmp_path / "p" / "pareto.png", "accuracy", models, {"ms": "milliseconds"})
    assert (tmp_path / "p" / "pareto.png").stat().st_size > 10_000
    (axis,) = kept[0].axes
    boxes = {text.get_text(): text.get_window_extent() for text in axis.texts}
    assert set(boxes) == {"teacher", "one", "two"}
    assert not boxes["one"].overlaps(boxes["two"])
    assert axis.get_xlim()[0] == 0


def test_a_cost_that_is_not_known_leaves_a_model_out(tmp_path, monkeypatch):
    kept = drawn(monkeypatch)
    models = [model("a", 0.9, 10.0) | {"mb": 3.0}, model("b", 0.8, 5.0)]
    figures.pareto(tmp_path / "pareto.png", "accuracy", models, {"ms": "milliseconds", "mb": "megabytes"})
    assert [[text.get_text() for text in axis.texts] for axis in kept[0].axes] == [["b", "a"], ["a"]]


def test_reliability_has_a_panel_for_each_model(tmp_path, monkeypatch):
    kept = drawn(monkeypatch)
    bins = [{"from": 0.6, "to": 0.7, "confidence": 0.65, "accuracy": 0.5, "count": 3}]
    figures.reliability(tmp_path / "r.png", {name: Calibration(0.15, bins) for name in "abcde"})
    titles = [axis.get_title() for axis in kept[0].axes if axis.get_visible()]
    assert titles == [f"{name}\ncalibration error 0.150" for name in "abcde"]


def test_training_shows_each_component(tmp_path, monkeypatch):
    kept = drawn(monkeypatch)
    log = [
        {"step": 1, "loss": 2.0, "loss_logits": 2.5, "agreement": 0.5, "learning_rate": 1e-4},
        {"step": 2, "loss": 1.0, "loss_logits": 1.5, "agreement": 0.75},
        {"step": 2, "eval_loss": 1.2, "eval_agreement": 0.7, "eval_runtime": 3.0},
    ]
    figures.training(tmp_path / "t.png", {"run": log})
    left, right = kept[0].axes
    assert [line.get_label() for line in left.lines] == ["loss", "logits", "evaluated loss"]
    assert [line.get_label() for line in right.lines] == ["agreement", "evaluated agreement"]
    assert left.lines[1].get_xydata().tolist() == [[1, 2.5], [2, 1.5]]


def test_a_log_without_agreement_has_one_panel(tmp_path, monkeypatch):
    kept = drawn(monkeypatch)
    figures.training(tmp_path / "t.png", {"run": [{"step": 1, "loss": 2.0}]})
    assert [axis.get_visible() for axis in kept[0].axes] == [True, False]


def test_without_matplotlib_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "tkd_hf.report.figures")
    with pytest.raises(InputError, match=r'not installed: pip install "tkd-hf\[report\]"'):
        importlib.import_module("tkd_hf.report.figures")
