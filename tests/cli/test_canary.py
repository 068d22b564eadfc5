"""A token that is in the environment of every command is in nothing that they write or say."""

import pytest

from ..conftest import FAST


CANARY = "hf_CanaryCanaryCanaryCanaryCanary"


@pytest.mark.slow
def test_no_command_tells_the_token(run, teacher_folder, sst2_dir, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", CANARY)
    out = tmp_path / "out"
    steps = [*FAST.removesuffix(" --save-strategy no").split(), "--save-strategy", "steps", "--save-steps", 1]
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    teacher, student = out / "teacher", out / "student"
    report = out / "report"
    done = (
        ["finetune", teacher_folder, *data, *steps, "--output-dir", teacher],
        ["label", teacher, *data],
        ["distill", teacher, *data, *steps, "--layers", 2, "--output-dir", student],
        [
            "prune",
            student,
            "--teacher",
            teacher,
            *data,
            *steps,
            "--target-params",
            0.95,
            "--output-dir",
            out / "pruned",
        ],
        ["quantize", student, "--backend", "bitsandbytes", *data, "--output-dir", out / "int8"],
        ["evaluate", student, "--teacher", teacher, *data, "--json", out / "evaluate.json"],
        ["benchmark", teacher, student, "--batch-sizes", 1, "--lengths", 8, "--rounds", 2, "--json", out / "b.json"],
        [
            "report",
            student,
            "--teacher",
            teacher,
            *data,
            "--rounds",
            2,
            "--batch-sizes",
            1,
            "--lengths",
            8,
            "--output-dir",
            report,
        ],
        ["card", student, "--report", report, "--license", "mit"],
        ["push", student, "--repo-id", "org/name", "--dry-run"],
    )
    failed = (["push", student, "--repo-id", "org/name"], ["verify", "org/name"], ["evaluate", "org/name", *data])
    said = caplog.text
    for words, expected in [*((words, 0) for words in done), *((words, 2) for words in failed)]:  # there is no network
        code, printed, err = run(*words)
        assert code == expected, err
        said += printed + err
    assert CANARY not in said + caplog.text
    written = [path for path in tmp_path.parent.rglob("*") if path.is_file()]
    names = {"model.safetensors", "README.md", "tkd_run.json", "report.md", "optimizer.pt", "evaluate.json"}
    assert names <= {path.name for path in written}
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
