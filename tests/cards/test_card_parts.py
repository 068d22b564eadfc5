"""The parts of cards and reports: metadata, sections, tables, facts of stages, and plots."""

import ast
import json
import re
from copy import deepcopy
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_hf import InputError
from tkd_hf.cards import figures
from tkd_hf.cards.card import Card
from tkd_hf.cards.generate import card, card_sections, render_card
from tkd_hf.cards.history import _PRUNING_DEFAULTS
from tkd_hf.cards.markdown import (
    Markdown,
    code_span,
    escape,
    link,
    python_string,
    table_by_quantity,
    table_by_result,
)
from tkd_hf.cards.metadata import check_card, front_matter, read_card
from tkd_hf.cards.sections import merge_sections, user_text
from tkd_hf.evaluation.calibration import Calibration
from tkd_hf.evaluation.columns import Column
from tkd_hf.evaluation.tables import Table
from tkd_hf.pruning.arguments import PruningArguments

from ..factories import distilled, read_json, report_folder


VALID = {"library_name": "transformers", "pipeline_tag": "text-classification", "tags": ["tkd"]}


def result(value):
    metric = {"type": "accuracy", "value": value}
    data = {"task": {"type": "x"}, "dataset": {"name": "d", "type": "d"}, "metrics": [metric]}
    return {"model-index": [{"name": "x", "results": [data]}]}


def card_with(changes):
    return front_matter({name: value for name, value in {**VALID, **changes}.items() if value is not None}) + "# x\n"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"language": ["en", "multilingual"], "base_model": ["a/b"], "base_model_relation": "quantized"},
        result(0.5),
    ],
)
def test_valid_metadata_pass(changes):
    check_card(card_with(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library_name": None}, "library_name is missing"),
        ({"pipeline_tag": "chess"}, "pipeline_tag is 'chess'"),
        ({"tags": []}, "tags is missing"),
        ({"tags": ["a", 1]}, "tags is .* not a list of strings"),
        ({"metrics": "accuracy"}, "metrics is 'accuracy', not a list"),
        ({"license": 2}, "license is 2"),
        ({"language": "English"}, "contains 'English'"),
        ({"base_model": "/tmp/runs/x"}, "contains '/tmp/runs/x', which is not a Hub id"),
        ({"base_model": "a/b", "base_model_relation": "distilled"}, "'distilled', not one of adapter"),
        ({"base_model_relation": "finetune"}, "base_model_relation is 'finetune', but base_model is missing"),
        (result("high"), "accuracy='high'"),
        (result(float("nan")), "accuracy=nan"),
    ],
)
def test_invalid_metadata_are_refused_by_field(changes, message):
    with pytest.raises(InputError, match=message):
        check_card(card_with(changes))


def test_unreadable_metadata_and_tokens_are_refused():
    with pytest.raises(InputError, match="cannot be read"):
        check_card("---\ntags: [\n---\n")
    with pytest.raises(InputError, match="library_name is missing"):
        check_card("# nothing but text\n")
    token = "hf_" + "aBcD" * 8
    with pytest.raises(InputError, match="looks like a Hub token") as error:
        check_card(card_with({}) + token)
    assert token not in str(error.value)


SECTION_NAMES = ["title", "use", "results", "limits"]
texts = st.text("ab \n#", max_size=12)
sections = st.fixed_dictionaries(dict.fromkeys(SECTION_NAMES, texts))


@given(first=sections, second=sections, before=texts, after=texts)
def test_merging_keeps_user_text_and_replaces_all_sections(first, second, before, after):
    page = merge_sections(before, first) + after
    expected = user_text(page).split()
    again = merge_sections(page, second)
    assert user_text(again).split() == expected
    assert merge_sections(again, second) == again
    for name in SECTION_NAMES:
        assert (f"<!-- tkd-hf {name}:" in again) == bool(second[name].strip())
        assert second[name].strip() in again


def test_user_text_between_sections_keeps_its_position():
    page = merge_sections("", {"use": "load it", "limits": "none"})
    page = page.replace("<!-- tkd-hf limits", "Mine.\n\n<!-- tkd-hf limits")
    page = merge_sections(page, {"title": "# x", "use": "load", "results": "0.9", "limits": "some"})
    order = [page.index(text) for text in ("# x", "load", "0.9", "Mine.", "some")]
    assert order == sorted(order)
    assert "none" not in page


@pytest.mark.parametrize("damage", ["<!-- end of tkd-hf use -->", "<!-- tkd-hf use: generated"])
def test_markers_without_counterpart_are_refused(damage):
    page = merge_sections("", {"use": "load it"}).replace(damage, "")
    with pytest.raises(InputError, match="tkd-hf use"):
        merge_sections(page, {"use": "load it"})


def test_sections_are_matched_by_marker_whatever_their_heading():
    """A card that an earlier version wrote has other headings; none of its sections may remain twice."""
    old = "\n".join(
        [
            "<!-- tkd-hf use: generated; write your own text outside of these marks -->",
            "## How to load it",
            "<!-- end of tkd-hf use -->",
            "Mine.",
            "<!-- tkd-hf fidelity: generated; write your own text outside of these marks -->",
            "## How near to the teacher",
            "<!-- end of tkd-hf fidelity -->",
        ]
    )
    page = merge_sections(old, {"use": "## How to use it", "fidelity": "## Agreement with the teacher"})
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["## How to use it", "## Agreement with the teacher"]
    assert user_text(page) == "Mine."


SIZE = Column("size", "MB", long="size on disk (MB)", format=lambda value: f"{value:.1f}")
SIZES = Table("models", (Column("", align="left"), SIZE, Column("backend")), [("a|b", 1.25, "onnx"), ("c", None, "x")])


def test_a_report_has_a_row_per_model_and_a_card_a_row_per_quantity():
    assert table_by_result(SIZES).splitlines() == [
        "|  | size (MB) | backend |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1.2 | onnx |",
        "| c | – | x |",
    ]
    assert table_by_quantity(SIZES).splitlines() == [
        "| models | a\\|b | c |",
        "| --- | ---: | ---: |",
        "| size on disk (MB) | 1.2 | – |",
        "| backend | onnx | x |",
    ]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain_name-1.0 (x) [y]", "plain_name-1.0 (x) [y]"),
        ("x\n# heading", "x # heading"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)>"),
        ("<!-- end of tkd-hf use -->", "&lt;!-- end of tkd-hf use -->"),
        ("![x](https://example.org/x.png)", "![x]\\(https://example.org/x.png)"),
        ("a|b\\|c", "a\\|b\\\\\\|c"),
        ("`code`", "\\`code\\`"),
        (Markdown("**bold**"), "**bold**"),
    ],
)
def test_text_that_could_be_markdown_is_escaped(text, escaped):
    assert escape(text) == escaped


def test_names_that_code_cannot_hold_become_plain_text():
    assert code_span("model.onnx") == "`model.onnx`"
    assert code_span("x` <b>") == "x\\` &lt;b>"
    assert code_span("") == ""


def test_addresses_of_links_cannot_be_left():
    assert link("a/b", "https://huggingface.co/a/b") == "[a/b](https://huggingface.co/a/b)"
    assert link("a](x", "https://huggingface.co/a) <b>") == "[a]\\(x](https://huggingface.co/a%29%20%3Cb%3E)"


@given(text=st.text(max_size=20))
def test_python_source_of_a_text_is_that_text_on_one_line_without_section_marks(text):
    source = python_string(text)
    assert eval(source) == text
    assert len(source.splitlines()) == 1
    assert "<" not in source


HOSTILE = (
    'x"); import os; os.system("true") #\n\n# Heading\n```\n<script>alert(1)</script> ![x](https://example.org/x)|'
)
HEADING = re.compile(r"^#+ .*", re.MULTILINE)


def test_hostile_names_add_no_headings_html_links_or_code(tmp_path):
    """Names of models, data, labels and files come from strangers, and a card is read by people who trust it."""
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 9}
    inputs = {"teacher": HOSTILE, "teacher_revision": "commit-" + HOSTILE, "task": HOSTILE, "dataset": "a/" + HOSTILE}
    record = distilled(inputs=inputs | {"splits": {"train": HOSTILE, "eval": HOSTILE}})
    record.arguments["note"] = record.hardware["cpu"] = record.software["torch"] = HOSTILE
    report = read_json(report_folder(tmp_path / "report", "student") / "report.json")
    honest = Card("x", "x", config, distilled(arguments=record.arguments), deepcopy(report), ["pictures/x.png"])
    report["evaluation"] |= {"task": HOSTILE, "split": HOSTILE}
    report["evaluation"]["models"][1]["fidelity"]["classes"][0]["name"] = HOSTILE
    config = config | {"model_type": HOSTILE, "id2label": {"0": HOSTILE, "1": "good"}, "hidden_size": HOSTILE}
    exports = {"onnx": [f"onnx/{HOSTILE}"], "openvino": [f"openvino/{HOSTILE}"]}
    hostile = Card(HOSTILE, HOSTILE, config, record, report, [f"pictures/{HOSTILE}.png"], exports)
    _, page = read_card(render_card(hostile))
    assert HEADING.findall(page)[1:] == HEADING.findall(render_card(honest))[1:]  # the first one is the name
    prose = re.sub(r"<!-- (end of )?tkd-hf [^>]*-->|```python.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    assert "<" not in prose
    assert "](https://example.org" not in prose
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    calls = [node.func for example in examples for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Call)]
    assert len(examples) == 3
    assert "system" not in {call.attr for call in calls if isinstance(call, ast.Attribute)}


def test_speedup_is_shown_for_a_student_with_the_name_of_its_teacher(tmp_path):
    report = read_json(report_folder(tmp_path / "report", "student") / "report.json")
    for model in report["benchmark"]["models"]:
        model["name"] = report["benchmark"]["reference"] = "model"
    speed = card_sections(Card("x", "x", {"model_type": "bert"}, results=report))["speed"]
    assert "| speed-up over the teacher | 1 | 2.00 (1.90–2.10) |" in speed


def test_a_report_that_is_not_one_of_ours_is_refused_by_field(tmp_path):
    report = report_folder(tmp_path / "report", str(tmp_path))
    content = read_json(report / "report.json")
    content["benchmark"]["models"][1]["timings"] = {}
    (report / "report.json").write_text(json.dumps(content))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"Report.benchmark.models\[1\].timings is \{\} instead of list"):
        card(tmp_path, report)


def test_card_knows_the_defaults_of_pruning():
    """`cards` is below `pruning` and cannot import them."""
    defaults = {field.name: field.default for field in fields(PruningArguments) if field.default is not None}
    assert defaults == _PRUNING_DEFAULTS


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


def test_names_are_drawn_as_they_are(tmp_path, monkeypatch):
    """matplotlib reads text between dollars as mathematics, and leaves names with an underscore out of the legend."""
    open_figures = keep_open(monkeypatch)
    names = [figures.plain_label(name) for name in ("$x_$", "_hidden")]
    models = [measured_model(name, 0.8, 5.0) for name in names]
    figures.pareto(tmp_path / "p.png", "accuracy", models, {"ms": "milliseconds"})
    assert legend_names(open_figures[0]) == names == [r"\$x_\$", " _hidden"]


def test_missing_matplotlib_is_named_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr(figures, "matplotlib", None)
    with pytest.raises(InputError, match=r'not installed: pip install "tkd-hf\[report\]"'):
        figures.check_installed()
