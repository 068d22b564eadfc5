"""Training and labelling with two processes give the results of one process."""

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


ROOT = Path(__file__).parents[2]


def launch(processes: int, *args) -> None:
    """Run tests/training/distributed_training.py in several processes that communicate with gloo."""
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "examples/accelerate/cpu.yaml"]
    launcher += ["--num_processes", str(processes), "--main_process_port", "0"]
    command = [sys.executable, *launcher, "--module", "tests.training.distributed_training", *map(str, args)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_ddp_matches_single_process_and_checkpoints_are_interchangeable(tmp_path):
    """Weights, projections and logged losses are equal, so the gradients of all of them are averaged."""
    final_states = []
    for name, processes, batch_size, *checkpoint in (
        ("one", 1, 8),
        ("two", 2, 4),
        ("resumed", 1, 8, tmp_path / "two/checkpoint-1"),
    ):
        (tmp_path / name).mkdir()
        launch(processes, tmp_path / name, batch_size, *checkpoint)
        final_states.append(load_file(tmp_path / name / "end.safetensors"))
    single, ddp, resumed = final_states
    assert "hidden.projection.weight" in single
    torch.testing.assert_close(single, ddp, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(single, resumed, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_labelling_with_two_processes_gives_the_soft_labels_of_one(tmp_path, teacher_folder):
    soft_labels = []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.safetensors"
        launch(processes, teacher_folder, path)
        soft_labels.append(SoftLabels.load(path, "r"))
    single, double = soft_labels
    np.testing.assert_array_equal(single.keys, double.keys)
    np.testing.assert_allclose(single.logits, double.logits, atol=1e-5)


@pytest.fixture
def group(tmp_path):
    """Open a process group that contains this process only."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_a_model_sharded_by_fsdp_is_saved_with_the_same_files_as_an_unsharded_one(group, tmp_path):
    """FSDP changes the class of the model, which must not change the files with its code or the class to load."""
    model = TKDForSequenceClassification(TKDConfig(vocab_size=9, hidden_size=8, num_attention_heads=2))
    model.save_pretrained(tmp_path / "unsharded")
    sharded = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (1,))
    for module in (*sharded.tkd.layers, sharded):
        fully_shard(module, mesh=mesh)
    sharded_class = type(sharded)
    for _ in range(2):  # the second time, the class already has the name of the class it was made from
        sharded.save_pretrained(tmp_path / "sharded", state_dict=model.state_dict())
    assert type(sharded) is sharded_class
    assert isinstance(sharded, FSDPModule)
    files = {path.name: path.read_bytes() for path in (tmp_path / "unsharded").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "sharded").iterdir()} == files
    assert "modeling_tkd.py" in files


def test_a_command_closes_the_process_group_at_its_end(run, group):
    assert run("--help")[0] == 0
    assert not torch.distributed.is_initialized()
