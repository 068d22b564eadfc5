"""What a record says of the machine stays there."""

import pytest

from tkd_hf.hub.redaction import hub_id, redact, redacted_record
from tkd_hf.stages.run_folder import StageRecord


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/me/runs/x", "x"),
        ("/home/me/my runs/x y", "x y"),
        ("~/runs/x/", "x"),
        ("../data/train.csv", "train.csv"),
        ("C:\\Users\\me\\x.csv", "x.csv"),
        ("file:///srv/x", "x"),
        ("cannot read /home/me/a.csv: gone", "cannot read a.csv: gone"),
        ("org/model", "org/model"),
        ("https://huggingface.co/org/model", "https://huggingface.co/org/model"),
        ("km/h, and/or 1/2", "km/h, and/or 1/2"),
        ("hf_abcdefghij123", "…"),
    ],
)
def test_strings(text, said):
    assert redact(text) == said
    assert redact({"a": [{text: (text,)}]}) == {"a": [{said: [said]}]}


def test_models_are_those_of_the_hub_or_folders():
    inputs = {"teacher": ["org/a@v1", "runs/b"], "teacher_revision": ["commit-1", "files-2"], "tokenizer": "runs/words"}
    found = redacted_record(StageRecord("distill", inputs, {"student": "runs/base"}))
    assert found.inputs["teacher"] == ["org/a@v1", "b"]
    assert (found.inputs["tokenizer"], found.arguments["student"]) == ("words", "base")
    assert (hub_id("org/a@v1", "commit-1"), hub_id("runs/b", "files-2"), hub_id(None, None)) == ("org/a", None, None)
    assert inputs["teacher"][1] == "runs/b"
