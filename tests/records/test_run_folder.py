"""A run folder is never lost, never mixed up with another run, and can be resumed, also if version 0.1.0 wrote it.

`tests/data/made_by_0_1_0.zip` was made with that version (commit 3e1e94f). The archive holds the script that made it,
`make.py`, and the list of commands, `made.json`.
"""

import json
import shlex
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel, dynamic_module_utils

from tkd_hf import DataArguments, InputError, card, evaluate, label
from tkd_hf.cards.generate import results_for_model
from tkd_hf.commands.push import plan_push
from tkd_hf.commands.verify import differing_numbers
from tkd_hf.hub.verify import read_claims
from tkd_hf.inference.runners import load_runner
from tkd_hf.models.loading import load_tokenizer
from tkd_hf.records.inputs import fingerprint
from tkd_hf.records.run_folder import RECORD_NAME, RunFolder, StageRecord, read_record

from ..factories import TEXTS, logits_of_texts, read_json


ARCHIVE = Path(__file__).parents[1] / "data" / "made_by_0_1_0.zip"
DATA = DataArguments(dataset="data", text_columns=("text",), label_names=("negative", "positive"), max_length=32)


def record(stage="distill", **arguments):
    return StageRecord(
        stage, inputs={"teacher": "t"}, arguments={"layers": 3, "objectives": {"hard": 1.0}, **arguments}
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def started(folder, **kwargs) -> RunFolder:
    run = RunFolder(folder, record(), **kwargs)
    run.start()
    return run


def test_the_record_is_written_at_start_and_completed_at_the_end(folder):
    run = started(folder)
    assert not run.done
    assert read_json(folder / RECORD_NAME)["finished"] is None
    run.finish({"accuracy": 0.5})
    content = read_json(folder / RECORD_NAME)
    assert content["metrics"] == {"accuracy": 0.5}
    assert {"stage", "inputs", "arguments", "seconds", "finished", "software", "hardware"} <= set(content)


def test_resuming_a_finished_run_returns_its_record(folder):
    started(folder).finish({"accuracy": 0.5})
    run = RunFolder(folder, record(), resume=True)
    assert run.done
    assert run.record.metrics == {"accuracy": 0.5}


def test_an_unfinished_run_resumes_from_its_last_complete_checkpoint(folder):
    started(folder)
    for step in (5, 10, 15):
        (folder / f"checkpoint-{step}").mkdir()
    for step in (5, 10):  # writing the third was interrupted
        (folder / f"checkpoint-{step}" / "trainer_state.json").touch()
    run = RunFolder(folder, record(), resume=True)
    assert not run.done
    assert run.checkpoint == str(folder / "checkpoint-10")


def test_a_folder_with_files_needs_resume_or_overwrite(folder):
    started(folder)
    with pytest.raises(InputError, match=r"run already holds files; add --resume to continue, or --overwrite"):
        RunFolder(folder, record())


def test_overwrite_deletes_only_a_folder_that_holds_a_run(folder):
    started(folder).finish({})
    (folder / "model.safetensors").touch()
    run = RunFolder(folder, record(), overwrite=True)
    assert not run.done
    assert (folder / "model.safetensors").exists()  # until the new run starts
    run.start()
    assert not (folder / "model.safetensors").exists()
    home = folder.parent / "home"
    home.mkdir()
    (home / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"home holds files but no tkd_run.json.*choose another folder"):
        RunFolder(home, record(), overwrite=True)
    assert (home / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (record(layers=2), r"differs: layers was 3, now 2; --overwrite"),
        (record("finetune"), r"differs: stage was 'distill', now 'finetune'"),
        (record(extra=1), r"differs: extra was None, now 1"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_names_them(folder, changed, message):
    started(folder)
    with pytest.raises(InputError, match=message):
        RunFolder(folder, changed, resume=True)


def test_a_folder_that_cannot_be_resumed_is_refused_with_the_reason(folder):
    folder.mkdir()
    (folder / "x").touch()
    with pytest.raises(InputError, match=r"run holds no tkd_run.json, so it is not a run to resume"):
        RunFolder(folder, record(), resume=True)
    for content in ("{", "[]", '{"stage": 1}'):
        (folder / RECORD_NAME).write_text(content)
        with pytest.raises(InputError, match=r"tkd_run.json is damaged"):
            RunFolder(folder, record(), resume=True)
    with pytest.raises(InputError, match="overwrite and resume"):
        RunFolder(folder, record(), resume=True, overwrite=True)
    (folder.parent / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder"):
        RunFolder(folder.parent / "file", record())


def test_a_fingerprint_depends_on_content_and_row_order_but_not_on_column_order():
    rows = {"text": ["a", "b"], "label": [0, 1]}
    assert fingerprint(Dataset.from_dict(rows)) == fingerprint(Dataset.from_dict(dict(reversed(rows.items()))))
    changed = [
        {"text": ["b", "a"], "label": [0, 1]},
        {"text": ["a", "b"], "label": [1, 1]},
        {"text": ["ab", ""], "label": [0, 1]},
    ]
    assert len({fingerprint(Dataset.from_dict(r)) for r in (rows, *changed)}) == 4


def test_integers_and_equal_floats_record_the_same_arguments():
    from tkd_hf import DistillationTrainingArguments
    from tkd_hf.records.inputs import training_arguments

    common = {"report_to": "none", "use_cpu": True}
    integers = DistillationTrainingArguments("x", num_train_epochs=2, temperature=2, weight_decay=0, **common)
    floats = DistillationTrainingArguments("x", num_train_epochs=2.0, temperature=2.0, weight_decay=0.0, **common)
    assert training_arguments(integers) == training_arguments(floats)


def test_a_record_lists_the_previous_stages_oldest_first(tmp_path):
    """Each stage runs in its own folder and starts from the model of the stage before it."""
    for name, model in (("a", None), ("b", "a"), ("c", "b")):
        inputs = {"model": str(tmp_path / model)} if model else {}
        run = RunFolder(tmp_path / name, StageRecord(name, inputs, {}))
        run.start()
        run.finish({})
    content = read_json(tmp_path / "c" / RECORD_NAME)
    assert [stage["stage"] for stage in content["before"]] == ["a", "b"]
    assert all("before" not in stage for stage in content["before"])
    unfinished = RunFolder(tmp_path / "d", StageRecord("d", {"model": str(tmp_path / "c")}, {}))
    unfinished.start()
    assert RunFolder(tmp_path / "e", StageRecord("e", {"model": str(tmp_path / "d")}, {})).record.before == []


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Return the folder of the archive's files; no test writes to it."""
    folder = tmp_path_factory.mktemp("made")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def reference(unpacked, tmp_path, monkeypatch):
    """Work in a copy of the archive's files, with its cache of soft labels; return the stored results."""
    shutil.copytree(unpacked, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "made" / "home"))
    return load_file("reference.safetensors")


def command(folder: str) -> list[str]:
    """Return the arguments of the command with which version 0.1.0 made a folder."""
    commands = read_json(Path("made.json"))["commands"]
    return next(shlex.split(line)[1:] for line in commands if f"--output-dir {folder}" in line)


@pytest.mark.parametrize("folder", ["teacher", "student", "pruned"])
def test_models_of_0_1_0_load_and_give_the_same_logits(reference, folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(logits_of_texts(model, load_tokenizer(folder)), reference[folder], rtol=0, atol=1e-5)
    assert AutoModel.from_pretrained(folder).config.num_hidden_layers == model.config.num_hidden_layers


@pytest.fixture
def remote_code(tmp_path, monkeypatch):
    """Return a function that loads a model with the code in its folder; the code is cached for this test alone."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def load(folder: str) -> PreTrainedModel:
        reference = read_json(Path(folder, "config.json"))["auto_map"]["AutoModelForSequenceClassification"]
        model_class = dynamic_module_utils.get_class_from_dynamic_module(reference, folder)
        assert model_class.__module__.startswith("transformers_modules.")
        return model_class.from_pretrained(folder)

    yield load
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def test_the_remote_code_of_0_1_0_still_runs(reference, remote_code):
    """A repository on the Hub keeps the code that it was pushed with."""
    for folder in ("student", "pruned"):
        logits = logits_of_texts(remote_code(folder), load_tokenizer(folder))
        torch.testing.assert_close(logits, reference[folder], rtol=0, atol=1e-5)


def test_an_adapter_of_0_1_0_loads_on_its_base(reference):
    model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained("student"), "adapter")
    torch.testing.assert_close(
        logits_of_texts(model, load_tokenizer("student")), reference["adapter"], rtol=0, atol=1e-5
    )


def test_an_onnx_export_of_0_1_0_gives_the_same_logits(reference):
    pytest.importorskip("onnxruntime")
    runner = load_runner("onnx")
    logits = runner(dict(runner.tokenizer(TEXTS, padding=True, return_tensors="pt")))
    torch.testing.assert_close(logits, reference["onnx"], rtol=0, atol=1e-5)


def test_evaluation_measures_what_0_1_0_recorded(reference):
    teacher, student = evaluate("student", DATA, teacher="teacher").models
    recorded = read_record("student").metrics
    report = read_json(Path("report/report.json"))["evaluation"]["models"]
    assert {name: student.metrics[name] for name in ("accuracy", "f1")} == pytest.approx(
        {name: recorded[name] for name in ("accuracy", "f1")}
    )
    assert teacher.metrics == pytest.approx(report[0]["metrics"])
    assert student.fidelity.agreement == recorded["agreement"]


def test_soft_labels_of_0_1_0_are_not_computed_again(reference):
    result = label("teacher", DATA)
    assert (result.examples, result.computed) == (16, 0)
    assert Path(result.path).is_relative_to(Path("home").absolute())


@pytest.mark.parametrize("folder", ["student", "pruned", "adapter", "onnx"])
def test_resuming_a_finished_run_of_0_1_0_returns_its_record(reference, folder, run):
    before = Path(folder, RECORD_NAME).read_bytes()
    code, _, err = run(*command(folder), "--resume", "--json", "result.json")
    assert code == 0, err
    assert Path(folder, RECORD_NAME).read_bytes() == before
    assert read_json(Path("result.json")) == json.loads(before)


def test_an_interrupted_run_of_0_1_0_ends_with_the_weights_of_an_uninterrupted_one(reference, run):
    """Version 0.1.0 was killed while it wrote checkpoint 6 of 8, so checkpoint 4 is the last complete one."""
    code, _, err = run(*command("interrupted"), "--resume")
    assert code == 0, err
    assert "seconds_per_epoch" not in read_record("interrupted").metrics  # it did not train from the beginning
    weights = load_file("interrupted/model.safetensors")
    expected = {
        name.removeprefix("weights."): value for name, value in reference.items() if name.startswith("weights.")
    }
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)


def test_a_card_of_0_1_0_is_updated_once_and_keeps_what_people_wrote(reference):
    old = Path("student/README.md").read_text(encoding="utf-8")
    new = card("student")
    assert new.count("Words of my own.") == 1
    assert "license: apache-2.0" in new
    headings = [line for line in new.splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings))
    assert "How near to the teacher" in old
    assert "How near to the teacher" not in new
    assert card("student") == new


def test_a_card_of_0_1_0_claims_the_results_of_its_report(reference):
    claims = {claim.metric: claim.value for claim in read_claims(Path("student"))}
    results = results_for_model(read_json(Path("report/report.json")), Path("student"))
    assert differing_numbers(Path("student"), "student") == []
    assert claims == pytest.approx(results["evaluation"]["models"][1]["metrics"], abs=1e-6)


def test_a_stage_continues_from_a_run_of_0_1_0(reference, run):
    data = command("student")[2:]
    data = data[: data.index("--layers")]
    code, _, err = run("prune", "student", *data, "--target-params", 0.9, "--no-train", "--output-dir", "next")
    assert code == 0, err
    distillation = read_json(Path("student", RECORD_NAME))
    assert distillation.pop("before") == []
    assert read_json(Path("next", RECORD_NAME))["before"] == [distillation]


def test_runs_of_0_1_0_can_be_published(reference):
    assert "model.safetensors" in plan_push("student", "org/model").files
    assert "model.safetensors" in plan_push("pruned", "org/model").files
    assert "onnx/model_quantized.onnx" in plan_push("onnx", "org/model", include=["onnx"]).files
