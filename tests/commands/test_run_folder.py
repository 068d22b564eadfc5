"""A run folder is never lost, never mixed up with another run, and can be resumed."""

import pytest
from datasets import Dataset

from tkd_hf import InputError
from tkd_hf.records.run_folder import RECORD_NAME, RunFolder, StageRecord, fingerprint

from ..factories import read_json


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
    from tkd_hf.records.run_folder import training_arguments

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
