"""The soak, short: five kills at random moments cost nothing."""

import json
import runpy
import sys
from pathlib import Path

import pytest


SOAK = Path(__file__).parents[2] / "examples" / "soak.py"


@pytest.mark.slow
def test_five_kills(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime", reason="the recipe exports to ONNX")
    monkeypatch.setattr(sys, "argv", ["soak.py", "--kills", "5", "--seed", "1", "--results-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SOAK), run_name="__main__")
    assert ended.value.code == 0
    found = json.loads((tmp_path / "soak.json").read_text())
    assert (found["kills"], found["mismatches"]) == (5, 0)
