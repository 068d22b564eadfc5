"""Two processes train and label as one does, projections included, and one goes on where two were."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tkd_hf import SoftLabels, TKDConfig, TKDForSequenceClassification


ROOT = Path(__file__).parents[1]


def launch(processes: int, *words) -> None:
    """Runs tests/distributed_training.py in so many processes, joined by gloo."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "examples/accelerate/cpu.yaml"]
    launcher += ["--num_processes", str(processes), "--main_process_port", "0"]
    command = [sys.executable, *launcher, "--module", "tests.distributed_training", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_of_four_are_one_of_eight_and_one_goes_on_from_two(tmp_path):
    """Weights, projections and logged components are the same, so gradients of all of them were averaged."""
    ends = []
    for name, processes, batch_size, *checkpoint in (
        ("one", 1, 8),
        ("two", 2, 4),
        ("resumed", 1, 8, tmp_path / "two/checkpoint-1"),
    ):
        (tmp_path / name).mkdir()
        launch(processes, tmp_path / name, batch_size, *checkpoint)
        ends.append(load_file(tmp_path / name / "end.safetensors"))
    one, two, resumed = ends
    assert "hidden.projection.weight" in one
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(one, resumed, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_label_as_one(tmp_path, teacher_folder):
    labels = []
    for processes in (1, 2):
        path = tmp_path / f"of{processes}.safetensors"
        launch(processes, teacher_folder, path)
        labels.append(SoftLabels.load(path, "r"))
    np.testing.assert_array_equal(labels[0].keys, labels[1].keys)
    np.testing.assert_allclose(labels[0].logits, labels[1].logits, atol=1e-5)


@pytest.fixture
def group(tmp_path):
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_a_model_that_fsdp_shares_out_is_saved_as_what_it_is(group, tmp_path):
    """The files that define it are its own, not those of FSDP, whose class it has meanwhile."""
    whole = TKDForSequenceClassification(TKDConfig(vocab_size=9, hidden_size=8, num_attention_heads=2))
    whole.save_pretrained(tmp_path / "whole")
    shared = copy.deepcopy(whole)
    mesh = init_device_mesh("cpu", (1,))
    for module in (*shared.tkd.layers, shared):
        fully_shard(module, mesh=mesh)
    shared.save_pretrained(tmp_path / "shared", state_dict=whole.state_dict())
    assert isinstance(shared, FSDPModule)
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "shared").iterdir()} == files
    assert "modeling_tkd.py" in files


def test_a_command_leaves_the_others_when_it_is_done(run, group):
    assert run("--help")[0] == 0
    assert not torch.distributed.is_initialized()
