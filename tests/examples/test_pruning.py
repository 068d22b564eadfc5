"""The curves of pruning in a quick size: two students of two seeds, and a table that other records can join."""

import shutil

import pytest

import pruning
from tests.conftest import read_json
from tkd_hf.stages.prune import PruningArguments


@pytest.mark.slow
def test_two_students_of_two_seeds(tmp_path, teacher_folder, sst2_dir, monkeypatch):
    students = (
        pruning.Student("pruned to 1.2× the speed", PruningArguments(target_params=0.9, calibration=8)),
        pruning.Student("2 layers", layers=2),
    )
    quick = {"per_device_train_batch_size": 4, "use_cpu": True, "bf16": False}
    monkeypatch.setattr(pruning, "STUDENTS", students)
    monkeypatch.setattr(pruning, "STEPS", {"sst2": 2})
    monkeypatch.setattr(pruning, "COMMON", pruning.COMMON | quick)
    shutil.copytree(teacher_folder, tmp_path / "sst2-teacher")
    words = ["--teachers", str(tmp_path), "--data-dir", str(sst2_dir), "--output-dir", str(tmp_path / "runs")]
    words += ["--results-dir", str(tmp_path / "results")]
    pruning.main([*words, "--seeds", "0", "--students", "2 layers"])
    table = (tmp_path / "results" / "pruning.md").read_text()
    assert "| 2 layers |" in table
    assert "pruned to" not in table

    pruning.main([*words, "--seeds", "0", "1"])
    (teacher, pruned, shallow) = read_json(tmp_path / "results" / "pruning.json")["tasks"]["sst2"]
    assert [len(one["metric"]["values"]) for one in (teacher, pruned, shallow)] == [1, 2, 2]  # one teacher
    assert pruned["parameters"] <= 0.9 * teacher["parameters"]
    assert shallow["agreement"] <= 1
    assert (tmp_path / "results" / "pruning.png").exists()
    table = (tmp_path / "results" / "pruning.md").read_text()
    assert str(tmp_path) not in table + (tmp_path / "results" / "pruning" / "sst2-s1.json").read_text()
