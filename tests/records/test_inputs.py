"""Resuming compares everything that decides the result, and later commands find a run's data again."""

import copy
from dataclasses import dataclass, fields

import pytest
from datasets import Dataset
from transformers import TrainingArguments

from tkd_hf import DataArguments, DistillationTrainingArguments, FineTuningArguments, InputError
from tkd_hf.data.tasks import TASKS
from tkd_hf.objectives.arguments import PretrainingArguments
from tkd_hf.records.inputs import NO_EFFECT, data_fields, data_inputs, differences, training_arguments
from tkd_hf.records.recorded import recorded_data, recorded_input
from tkd_hf.records.redaction import redacted_record
from tkd_hf.records.run_folder import StageRecord, write_record


QUIET = {"report_to": "none", "use_cpu": True, "bf16": False}
IGNORED = {name for names in NO_EFFECT.values() for name in names.split()}
# They matter if an evaluation decides: with `load_best_model_at_end`, or a scheduler that reads the metrics.
ON_THE_WAY = {"save_strategy", "save_steps", "metric_for_best_model", "greater_is_better"}
EXAMPLES_PER_STEP = {"per_device_train_batch_size", "gradient_accumulation_steps"}


def changed(args: TrainingArguments, **values) -> TrainingArguments:
    """Return a copy with other values, without the checks of the class."""
    other = copy.copy(args)
    for name, value in values.items():
        object.__setattr__(other, name, value)
    return other


def compare(old: TrainingArguments, new: TrainingArguments) -> str:
    return differences(training_arguments(old), training_arguments(new), new)


@pytest.mark.parametrize("kind", [FineTuningArguments, DistillationTrainingArguments, PretrainingArguments])
def test_every_field_of_the_training_arguments_is_compared_or_listed_with_a_reason(kind):
    """This holds at both ends of the supported versions of transformers, whose fields differ."""
    args = kind("x", **QUIET)
    for field in fields(kind):
        message = compare(
            args, changed(args, **{field.name: 7, **({"fsdp": 1} if field.name == "fsdp_config" else {})})
        )
        if field.name in IGNORED | ON_THE_WAY:
            assert message == "", field.name
        elif field.name == "fsdp_config":
            assert "fsdp_config" in message
        else:
            assert f"{field.name} was " in message, field.name
            assert "now '7" in message


def test_a_field_that_a_new_version_of_transformers_adds_is_compared():
    @dataclass
    class NewArguments(FineTuningArguments):
        momentum_of_tomorrow: float = 0.5

    args = NewArguments("x", **QUIET)
    assert compare(args, changed(args, momentum_of_tomorrow=0.25)) == "momentum_of_tomorrow was '0.5', now '0.25'"


@pytest.mark.parametrize("decides", [{"load_best_model_at_end": True}, {"lr_scheduler_type": "reduce_lr_on_plateau"}])
@pytest.mark.parametrize("name", sorted(ON_THE_WAY))
def test_checkpoints_on_the_way_are_compared_if_they_decide(decides, name):
    args = changed(FineTuningArguments("x", **QUIET), eval_strategy="steps", **decides)
    assert f"{name} was " in compare(args, changed(args, **{name: 7}))


def test_the_examples_per_step_are_compared_and_not_how_they_are_divided():
    """Accumulated batches, and several processes, train the same student (`test_invariance.py`)."""
    args = FineTuningArguments("x", per_device_train_batch_size=8, **QUIET)
    same = changed(args, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert compare(args, same) == compare(same, args) == ""
    message = compare(args, changed(same, gradient_accumulation_steps=2))
    assert message == "gradient_accumulation_steps was '1', now '2', per_device_train_batch_size was '8', now '2'"
    two = training_arguments(changed(args, per_device_train_batch_size=4)) | {"devices": "2"}
    assert differences(training_arguments(args), two, args) == ""
    assert "devices was None, now '2'" in differences(
        training_arguments(args), training_arguments(args) | {"devices": "2"}
    )


def test_fields_that_an_earlier_record_lacks_are_compared_with_their_defaults():
    args = DistillationTrainingArguments("x", **QUIET)
    names = "learning_rate num_train_epochs seed bf16 objectives temperature".split()
    old = {name: value for name, value in training_arguments(args).items() if name in names}
    assert differences(old, training_arguments(args), args) == ""
    assert differences(old, training_arguments(changed(args, max_grad_norm=0.5)), args) == (
        "max_grad_norm was '1.0', now '0.5'"
    )
    assert differences(old, {"seed": "42.0"} | {name: old[name] for name in names[:2]} | old, args) == ""


def test_equal_settings_in_another_spelling_are_equal():
    old = {"seed": "42", "optim": "OptimizerNames.ADAMW_TORCH", "layers": [1, 2], "flag": "False"}
    assert differences(old, {"seed": "42.0", "optim": "adamw_torch", "layers": (1, 2)}) == ""
    fingerprints = {"train": "1234567890123456"}, {"train": "1234567890123457"}
    assert "train was" in differences(*fingerprints)


def test_other_label_names_are_another_run():
    rows = Dataset.from_dict({"text": ["a"], "label": [0]})
    data, task = DataArguments(task="sst2"), TASKS["sst2"]
    inputs = data_inputs(data, rows, rows, task)
    assert inputs["classes"] == ["negative", "positive"]
    assert differences(inputs, inputs | {"classes": ["no", "yes"]}).startswith("classes was ['negative', 'positive']")
    assert differences({**inputs, "data": {"task": "old name"}}, inputs) == ""
    assert differences({name: value for name, value in inputs.items() if name != "classes"}, inputs) == ""


def run_on(folder, data: DataArguments | None, **inputs) -> str:
    recorded = {"data": data_fields(data), "task": "x"} if data else {}
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, StageRecord("distill", {**recorded, **inputs}, {}, finished="now"))
    return str(folder)


def test_a_run_remembers_its_data_completely_and_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews").mkdir()
    data = DataArguments(
        dataset="reviews",
        text_columns=("title", "body text"),
        label_column="stars",
        label_names=("bad", "good, really"),
        train_split="train[:90%]",
        eval_split="test",
        max_length=64,
    )
    run = run_on(tmp_path / "run", data)
    monkeypatch.chdir("/")
    assert vars(recorded_data(run)) == {**vars(data), "dataset": str(tmp_path / "reviews")}
    distilled = vars(StageRecord("distill", {"data": {"task": "cola"}}, {}))
    write_record(tmp_path, StageRecord("quantize", {"model": run}, {}, before=[distilled]))
    assert recorded_data(tmp_path) == DataArguments(task="cola")


def test_runs_on_the_same_data_agree_and_others_are_refused(tmp_path):
    short, long = (run_on(tmp_path / f"{n}", DataArguments(task="sst2", max_length=n)) for n in (64, 96))
    assert recorded_data([short, "org/model", long]).max_length == 96
    other = run_on(tmp_path / "other", DataArguments(task="cola"))
    with pytest.raises(InputError, match=r"name the data with --task or --dataset: .* name several: sst2, cola"):
        recorded_data([short, other])
    with pytest.raises(InputError, match="name none"):
        recorded_data(["org/model"])


def test_records_of_0_1_0_name_tasks_of_glue_only(tmp_path):
    old = run_on(tmp_path / "old", None, task="sst2", splits={"train": "train[:9]", "eval": "test"})
    assert recorded_data(old) == DataArguments(task="sst2", train_split="train[:9]", eval_split="test")
    local = run_on(tmp_path / "local", None, task="reviews")
    with pytest.raises(InputError, match=r"'reviews', and their records .* do not tell where"):
        recorded_data(local)


def test_a_published_record_names_no_local_path_and_no_other_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret" / "reviews").mkdir(parents=True)
    (tmp_path / "reviews").mkdir()  # another data set, where the published run is used
    inputs = {"data": data_fields(DataArguments(dataset="secret/reviews")), "task": "reviews"}
    published = redacted_record(StageRecord("distill", inputs, {}))
    assert published.inputs["data"] == {"dataset": "reviews"}
    write_record(tmp_path, published)
    with pytest.raises(InputError, match="do not tell where that is; name the data"):
        recorded_data(tmp_path)


def test_data_that_is_gone_or_damaged_is_named(tmp_path):
    (tmp_path / "texts.csv").touch()
    run = run_on(tmp_path / "run", DataArguments(dataset=str(tmp_path / "texts.csv")))
    (tmp_path / "texts.csv").unlink()
    with pytest.raises(InputError, match=r"texts\.csv, is gone; name the data"):
        recorded_data(run)
    for fields_ in ({"max_length": "x"}, {"unknown": 1}, {"text_columns": 5}):
        write_record(tmp_path, StageRecord("distill", {"data": {"task": "sst2", **fields_}}, {}))
        with pytest.raises(InputError, match=f"the data argument {next(iter(fields_))}="):
            recorded_data(tmp_path)


def test_the_teacher_of_a_run_is_that_of_its_latest_stage_that_has_one(tmp_path):
    run = run_on(tmp_path / "run", None, teacher=["org/first", "org/second"])
    assert recorded_input([run, "org/model"], "teacher") == "org/first"
