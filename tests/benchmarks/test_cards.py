"""The cards of the published students follow from their records."""

import json

import pytest

import cards


RECORDS = json.loads((cards.CARDS / "records.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORDS)
def test_a_card_is_what_its_record_renders_to(name):
    assert (cards.CARDS / f"{name}.md").read_text(encoding="utf-8") == cards.render(RECORDS[name])


def test_every_card_has_a_record():
    assert {path.stem for path in cards.CARDS.glob("*.md")} == set(RECORDS)
