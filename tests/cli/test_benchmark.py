"""`tkd-hf benchmark` on the command line and as a stage of a recipe."""

import pytest
import yaml

from ..conftest import read_json


SMALL = ["--batch-sizes", "1,2", "--lengths", "4", "--rounds", 2]


@pytest.mark.slow
def test_a_model_compared_with_itself_gets_a_numbered_row_and_json(run, tmp_path, teacher_folder):
    code, out, err = run("benchmark", teacher_folder, teacher_folder, *SMALL, "--json", tmp_path / "b.json")
    assert code == 0, err
    assert f"\nbenchmarking {teacher_folder}, {teacher_folder} on built-in sentences\n" in err
    assert err.splitlines()[-1] == f"next: tkd-hf evaluate {teacher_folder} --teacher {teacher_folder} --task …"
    head, first, second = out.strip().splitlines()
    assert "p50 ms (1)" in head
    assert "texts/s (2)" in head
    assert "reference" in first
    assert second.startswith(f"{teacher_folder} (2)")
    assert "×" in second
    content = read_json(tmp_path / "b.json")
    assert len(content["models"]) == 2
    assert {"torch", "transformers"} <= set(content["software"])
    assert content["hardware"]["threads"] >= 1
    assert (
        0 < content["models"][0]["footprint"]["before_megabytes"] < content["models"][0]["footprint"]["peak_megabytes"]
    )


def test_the_table_names_the_task_and_the_number_of_threads(run, no_processes, tmp_path, teacher_folder, sst2_dir):
    data = ["--task", "sst2", "--data-dir", sst2_dir]
    code, out, err = run("benchmark", teacher_folder, *data, *SMALL, "--threads", 1, "--json", tmp_path / "b.json")
    assert code == 0, err
    assert out.startswith("sst2, 1 thread ")
    assert read_json(tmp_path / "b.json")["hardware"]["threads"] == 1


def test_a_stage_compares_the_teacher_with_the_models_of_earlier_stages(
    run, no_processes, tmp_path, teacher_folder, sst2_dir
):
    fast = {"num_train_epochs": 1, "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    stages = [
        {"distill": {**fast, "layers": 1}},
        {"finetune": fast},
        {"benchmark": {"batch_sizes": [1, 2], "lengths": 4, "rounds": 2}},
    ]
    recipe = {"teacher": str(teacher_folder), "data": {"task": "sst2", "data_dir": str(sst2_dir)}, "stages": stages}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "out")}))
    code, _, err = run("run", tmp_path / "recipe.yaml", "--json", tmp_path / "run.json")
    assert code == 0, err
    result = read_json(tmp_path / "run.json")["stages"][2]
    names = [str(teacher_folder), str(tmp_path / "out" / "distill"), str(tmp_path / "out" / "finetune")]
    assert [model["name"] for model in result["models"]] == names
    assert (result["reference"], result["texts"], result["batch_sizes"]) == (names[0], "sst2", [1, 2])


def test_a_stage_needs_models_and_may_name_them(run, no_processes, tmp_path, teacher_folder):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"stages": [{"benchmark": {"models": ["no/such"]}}]}))
    code, _, err = run("run", tmp_path / "recipe.yaml")
    assert (code, "'no/such' is neither a folder with a loadable tokenizer" in err) == (2, True)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"stages": [{"benchmark": None}]}))
    code, _, err = run("run", tmp_path / "recipe.yaml")
    assert (code, "stage 1 of 1, benchmark: models is missing" in err) == (2, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("no/such", "'no/such' is neither a folder with a loadable configuration"),
        ("{teacher} --batch-sizes 0", "--batch-sizes '0' must be a list of numbers of at least 1, such as 1,8,32"),
        ("{teacher} --batch-sizes 1,many", "--batch-sizes '1,many' must be a list"),
        (
            "{teacher} --lengths 16,1024",
            "lengths go up to 1024 tokens, but {teacher} reads at most 32; lower --lengths",
        ),
        ("{teacher} --task sst3 --lengths 4", "unknown task 'sst3'"),
        ("{teacher} --reference no/such --lengths 4", "'no/such' is neither a folder"),
        ("{teacher}/model.onnx --lengths 4", "check the name and the network"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(run, no_processes, teacher_folder, args, message):
    code, out, err = run("benchmark", *args.format(teacher=teacher_folder).split())
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("tkd-hf: ")
    assert message.format(teacher=teacher_folder) in err.strip().splitlines()[-1]
    assert not out


def test_missing_models_are_refused(run):
    code, _, err = run("benchmark")
    assert (code, "missing argument 'models" in err.lower()) == (2, True)
