"""The parts of a card's file: metadata that the Hub accepts, and generated sections between user text."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_hf import InputError
from tkd_hf.cards.history import _PRUNING_DEFAULTS
from tkd_hf.cards.metadata import check_card, front_matter
from tkd_hf.cards.sections import merge_sections, user_text
from tkd_hf.pruning.arguments import PruningArguments


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


def test_card_knows_the_defaults_of_pruning():
    """`cards` is below `pruning` and cannot import them."""
    defaults = {field.name: field.default for field in fields(PruningArguments) if field.default is not None}
    assert defaults == _PRUNING_DEFAULTS
