"""`tkd-hf card`, and the cards that other commands leave."""

import pytest
from huggingface_hub import ModelCard

from tkd_hf.hub.folder import check_folder

from ..conftest import read_json
from .recipes import write_recipe


def test_a_recipe_ends_with_a_card(run, no_processes, tmp_path, teacher_folder, sst2_dir):
    fast = {"num_train_epochs": 1, "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    stages = [
        {"distill": {"layers": 2, **fast}},
        {"prune": {"target_params": 0.9, "no_train": True, "importance": "activation"}},
        {"report": {"rounds": 1, "batch_sizes": "1", "lengths": "16"}},
        {"card": {"license": "apache-2.0", "repo_id": "org/small"}},
    ]
    data = {"task": "sst2", "data_dir": str(sst2_dir)}
    recipe = write_recipe(tmp_path, stages, teacher=str(teacher_folder), data=data)
    code, out, err = run("run", recipe, "--output-dir", tmp_path / "runs")
    assert code == 0, err
    assert out.splitlines()[-1].endswith("prune/README.md")
    first, second = (tmp_path / "runs" / name for name in ("distill", "prune"))
    for folder in (first, second):
        check_folder(folder)
        page = (folder / "README.md").read_text()
        assert str(tmp_path) not in page
        assert "| teacher layers copied into the student (zero-based) | 1, 3 |" in page
    assert "Results compared with the teacher" not in (first / "README.md").read_text()
    assert "Results compared with the teacher" in page
    assert page.index("stage: distill") < page.index("stage: prune")
    assert "removed heads" in page
    found = ModelCard(page).data
    assert (found.license, found.datasets, found.model_name) == ("apache-2.0", ["nyu-mll/glue"], "small")
    assert found.eval_results[0].dataset_config == "sst2"
    assert [one["stage"] for one in read_json(second / "tkd_run.json")["before"]] == ["distill"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere contains no model"),
        (["teacher", "--language", "English"], "language contains 'English'"),
        (["teacher", "--report", "data"], "data contains no report.json"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, teacher_folder, sst2_dir, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("card", *words)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert not (teacher_folder / "README.md").exists()
