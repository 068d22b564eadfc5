"""A run folder is never lost, never mixed up, and can be gone on with."""

import pytest
from datasets import Dataset

from tkd_hf import InputError
from tkd_hf.stages.run_folder import RECORD_NAME, RunFolder, StageRecord, fingerprint

from ..conftest import read_json


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


def test_a_run_is_recorded(folder):
    run = started(folder)
    assert not run.done
    assert read_json(folder / RECORD_NAME)["finished"] is None
    run.finish({"accuracy": 0.5})
    found = read_json(folder / RECORD_NAME)
    assert found["metrics"] == {"accuracy": 0.5}
    assert {"stage", "inputs", "arguments", "seconds", "finished", "software", "hardware"} <= set(found)


def test_a_finished_run_is_returned_on_resume(folder):
    started(folder).finish({"accuracy": 0.5})
    run = RunFolder(folder, record(), resume=True)
    assert run.done
    assert run.record.metrics == {"accuracy": 0.5}


def test_an_unfinished_run_goes_on_from_its_last_whole_checkpoint(folder):
    started(folder)
    for step in (5, 10, 15):
        (folder / f"checkpoint-{step}").mkdir()
    for step in (5, 10):  # the third was cut off while it was written
        (folder / f"checkpoint-{step}" / "trainer_state.json").touch()
    run = RunFolder(folder, record(), resume=True)
    assert not run.done
    assert run.checkpoint == str(folder / "checkpoint-10")


def test_a_folder_with_files_is_left_alone(folder):
    started(folder)
    with pytest.raises(InputError, match=r"run already holds files; add --resume to go on, or --overwrite"):
        RunFolder(folder, record())


def test_overwriting_deletes_a_run_and_nothing_else(folder):
    started(folder).finish({})
    (folder / "model.safetensors").touch()
    run = RunFolder(folder, record(), overwrite=True)
    assert not run.done
    assert (folder / "model.safetensors").exists()  # until the new run starts
    run.start()
    assert not (folder / "model.safetensors").exists()
    precious = folder.parent / "home"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"home holds files but no tkd_run.json, so it is no run"):
        RunFolder(precious, record(), overwrite=True)
    assert (precious / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (record(layers=2), r"differs: layers was 3, now 2; --overwrite starts anew"),
        (record("finetune"), r"differs: stage was 'distill', now 'finetune'"),
        (record(extra=1), r"differs: extra was None, now 1"),
    ],
)
def test_another_run_is_not_resumed(folder, other, message):
    started(folder)
    with pytest.raises(InputError, match=message):
        RunFolder(folder, other, resume=True)


def test_what_cannot_be_resumed_says_why(folder):
    folder.mkdir()
    (folder / "x").touch()
    with pytest.raises(InputError, match=r"run holds no tkd_run.json, so there is no run to resume"):
        RunFolder(folder, record(), resume=True)
    for content in ("{", "[]", '{"stage": 1}'):
        (folder / RECORD_NAME).write_text(content)
        with pytest.raises(InputError, match=r"tkd_run.json is damaged"):
            RunFolder(folder, record(), resume=True)
    with pytest.raises(InputError, match="exclude each other"):
        RunFolder(folder, record(), resume=True, overwrite=True)
    (folder.parent / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder"):
        RunFolder(folder.parent / "file", record())


def test_a_fingerprint_is_of_content_and_order():
    rows = {"text": ["a", "b"], "label": [0, 1]}
    assert fingerprint(Dataset.from_dict(rows)) == fingerprint(Dataset.from_dict(dict(reversed(rows.items()))))
    changed = [
        {"text": ["b", "a"], "label": [0, 1]},
        {"text": ["a", "b"], "label": [1, 1]},
        {"text": ["ab", ""], "label": [0, 1]},
    ]
    assert len({fingerprint(Dataset.from_dict(r)) for r in (rows, *changed)}) == 4


def test_whole_numbers_and_floats_are_the_same_run():
    from tkd_hf import DistillationTrainingArguments
    from tkd_hf.stages.training import training_arguments

    common = {"report_to": "none", "use_cpu": True}
    whole = DistillationTrainingArguments("x", num_train_epochs=2, temperature=2, weight_decay=0, **common)
    floats = DistillationTrainingArguments("x", num_train_epochs=2.0, temperature=2.0, weight_decay=0.0, **common)
    assert training_arguments(whole) == training_arguments(floats)


def test_a_record_tells_what_was_done_before(tmp_path):
    """Each stage in a folder of its own, the first one first."""
    for name, model in (("a", None), ("b", "a"), ("c", "b")):
        inputs = {"model": str(tmp_path / model)} if model else {}
        run = RunFolder(tmp_path / name, StageRecord(name, inputs, {}))
        run.start()
        run.finish({})
    found = read_json(tmp_path / "c" / RECORD_NAME)
    assert [one["stage"] for one in found["before"]] == ["a", "b"]
    assert all("before" not in one for one in found["before"])
    unfinished = RunFolder(tmp_path / "d", StageRecord("d", {"model": str(tmp_path / "c")}, {}))
    unfinished.start()
    assert RunFolder(tmp_path / "e", StageRecord("e", {"model": str(tmp_path / "d")}, {})).record.before == []
