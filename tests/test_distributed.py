"""Two processes train as one does, projections included."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_two_processes_of_four_are_one_of_eight(tmp_path):
    """Weights, projections and logged components are the same, so gradients of all of them were averaged."""
    ends = []
    for processes, batch_size in ((1, 8), (2, 4)):
        folder = tmp_path / f"of{processes}"
        folder.mkdir()
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        words = [sys.executable, *launch, "--module", "tests.distributed_training", str(folder), str(batch_size)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        ends.append(load_file(folder / "end.safetensors"))
    assert "hidden.projection.weight" in ends[0]
    torch.testing.assert_close(*ends, atol=1e-4, rtol=1e-3)
