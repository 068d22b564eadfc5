"""Generated sections change, and what people wrote does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_hf import InputError
from tkd_hf.hub.sections import merge_sections, user_text


NAMES = ["title", "use", "results", "limits"]
texts = st.text("ab \n#", max_size=12)
sections = st.fixed_dictionaries(dict.fromkeys(NAMES, texts))


@given(first=sections, second=sections, before=texts, after=texts)
def test_people_keep_their_words(first, second, before, after):
    page = merge_sections(before, first) + after
    own = user_text(page).split()
    again = merge_sections(page, second)
    assert user_text(again).split() == own
    assert merge_sections(again, second) == again
    for name in NAMES:
        assert (f"<!-- tkd-hf {name}:" in again) == bool(second[name].strip())
        assert second[name].strip() in again


def test_words_between_sections_stay_where_they_are():
    page = merge_sections("", {"use": "load it", "limits": "none"})
    page = page.replace("<!-- tkd-hf limits", "Mine.\n\n<!-- tkd-hf limits")
    page = merge_sections(page, {"title": "# x", "use": "load", "results": "0.9", "limits": "some"})
    order = [page.index(text) for text in ("# x", "load", "0.9", "Mine.", "some")]
    assert order == sorted(order)
    assert "none" not in page


@pytest.mark.parametrize("damage", ["<!-- end of tkd-hf use -->", "<!-- tkd-hf use: generated"])
def test_marks_without_counterpart_are_refused(damage):
    page = merge_sections("", {"use": "load it"}).replace(damage, "")
    with pytest.raises(InputError, match="tkd-hf use"):
        merge_sections(page, {"use": "load it"})
