"""Files that are whole or not there."""

from contextlib import suppress

import pytest

from tkd_hf.errors import InputError
from tkd_hf.files import atomic_write, read_json


def test_what_fails_in_the_middle_leaves_what_was_there(tmp_path):
    (tmp_path / "x").write_text("before")
    with suppress(RuntimeError), atomic_write(tmp_path / "x") as file:
        file.write_text("half")
        raise RuntimeError
    assert (tmp_path / "x").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with atomic_write(tmp_path / "x") as file:
        file.write_text("after")
        assert (tmp_path / "x").read_text() == "before"
    assert (tmp_path / "x").read_text() == "after"


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_damage_is_named_with_the_way_out(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json is damaged \(.*\); start anew"):
        read_json(tmp_path / "x.json", hint="start anew")
