"""What the Hub would refuse is refused here, by name."""

import pytest

from tkd_hf import InputError
from tkd_hf.hub.metadata import check_card, front_matter


GOOD = {"library_name": "transformers", "pipeline_tag": "text-classification", "tags": ["tkd"]}


def result(value):
    metric = {"type": "accuracy", "value": value}
    data = {"task": {"type": "x"}, "dataset": {"name": "d", "type": "d"}, "metrics": [metric]}
    return {"model-index": [{"name": "x", "results": [data]}]}


def page(changes):
    return front_matter({name: value for name, value in {**GOOD, **changes}.items() if value is not None}) + "# x\n"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"language": ["en", "multilingual"], "base_model": ["a/b"], "base_model_relation": "quantized"},
        result(0.5),
    ],
)
def test_good_cards_pass(changes):
    check_card(page(changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"library_name": None}, "library_name is missing"),
        ({"pipeline_tag": "chess"}, "pipeline_tag is 'chess'"),
        ({"tags": []}, "tags is missing"),
        ({"tags": ["a", 1]}, "tags is .* not a list of texts"),
        ({"metrics": "accuracy"}, "metrics is 'accuracy', not a list"),
        ({"license": 2}, "license is 2"),
        ({"language": "English"}, "names 'English'"),
        ({"base_model": "/tmp/runs/x"}, "names '/tmp/runs/x', which is no Hub id"),
        ({"base_model": "a/b", "base_model_relation": "distilled"}, "'distilled', not one of adapter"),
        ({"base_model_relation": "finetune"}, "beside a base_model"),
        (result("high"), "accuracy='high'"),
    ],
)
def test_bad_cards_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        check_card(page(changes))


def test_damaged_and_secret_cards_are_refused():
    with pytest.raises(InputError, match="cannot be read"):
        check_card("---\ntags: [\n---\n")
    with pytest.raises(InputError, match="library_name is missing"):
        check_card("# nothing but text\n")
    token = "hf_" + "aBcD" * 8
    with pytest.raises(InputError, match="looks like a token") as refused:
        check_card(page({}) + token)
    assert token not in str(refused.value)
