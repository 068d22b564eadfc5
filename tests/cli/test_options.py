"""Flags, recipes, help and training arguments agree with the dataclasses that they are made from."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

import tkd_hf
from tkd_hf import InputError
from tkd_hf.cli import app
from tkd_hf.cli.parser import normalise
from tkd_hf.cli.registry import COMMANDS
from tkd_hf.cli.training_arguments import parse_training_arguments, training_options
from tkd_hf.commands.options import (
    BenchmarkOptions,
    EvaluateOptions,
    LabelOptions,
    PruneOptions,
    PushOptions,
    ReportOptions,
)
from tkd_hf.core.options import Option, build, default_text, option, option_class, options_of
from tkd_hf.data.arguments import CorpusArguments, DataArguments
from tkd_hf.models.arguments import EncoderArguments, LoraArguments, StudentArguments
from tkd_hf.pruning.arguments import PruningArguments
from tkd_hf.records.run_folder import StageRecord, write_record


ARGUMENT_CLASSES = [DataArguments, CorpusArguments, StudentArguments, EncoderArguments, LoraArguments, PruningArguments]
OPTION_CLASSES = [*ARGUMENT_CLASSES, *(command.options for command in COMMANDS.values())]
TRAINING_CLASSES = ["FineTuningArguments", "DistillationTrainingArguments", "PretrainingArguments"]


@pytest.mark.parametrize("kind", OPTION_CLASSES, ids=lambda kind: kind.__name__)
def test_help_shows_the_default_of_the_dataclass(kind):
    """A default that only stands for another one, such as None for the teacher's, is explained in words instead."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for described in options_of(kind):
        if described.path:
            continue
        field = fields[described.python_name]
        settings = field.metadata["option"]
        if field.default is dataclasses.MISSING:
            assert "(required)." in described.description
        elif settings["shown_default"] is None:
            assert f"({default_text(field.default)})." in described.description
        else:
            assert field.default in (None, ()) or str(field.default) in settings["shown_default"]


@pytest.mark.parametrize("name", TRAINING_CLASSES)
def test_training_arguments_read_from_source_are_those_of_the_class(name):
    kind = getattr(tkd_hf, name)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    options = {described.name: described for described in training_options(name)}
    assert options.keys() == fields.keys()
    for described in options.values():
        default = fields[described.name].default
        if default is dataclasses.MISSING:
            default = fields[described.name].default_factory()
        if described.name == "output_dir":
            assert described.default == ""
        elif default is not None and default not in ([], {}) and described.name != "optim":  # it depends on torch
            assert described.default == default_text(getattr(default, "value", default)), described.name
        assert described.help[0].isupper(), described.name
    for action in HfArgumentParser(kind)._actions:
        if action.dest in options and not action.option_strings[0].startswith("--no_"):
            described = options[action.dest]
            assert described.is_switch == (action.type is string_to_bool), action.dest
            assert described.multiple == (action.nargs == "+"), action.dest
            assert described.is_switch or described.value_is_optional == (action.nargs == "?"), action.dest


def test_training_arguments_are_grouped_with_our_own_first():
    groups = list(dict.fromkeys(described.group for described in training_options("DistillationTrainingArguments")))
    assert groups[:3] == ["", "Objectives", "Training"]
    assert {"Learning Rate & Scheduler", "Optimizer", "Evaluation", "Dataloader"} < set(groups)
    own = {described.name for described in training_options("FineTuningArguments") if described.group == "Training"}
    assert {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "bf16"} <= own
    assert own <= {field.name for field in dataclasses.fields(TrainingArguments)}


def test_every_option_has_one_name_per_command():
    for command in COMMANDS.values():
        names = [described.name for described in command.all_options]
        assert len(names) == len(set(names)), command.name


DATA = {"task": "sst2"}


@pytest.mark.parametrize(
    ("kind", "values", "name", "expected"),
    [
        (StudentArguments, {"layers": "3"}, "layers", 3),
        (StudentArguments, {"layers": 3}, "layers", 3),
        (StudentArguments, {"layers": "0,2,5"}, "layers", (0, 2, 5)),
        (StudentArguments, {"layers": [0, 2, 5]}, "layers", (0, 2, 5)),
        (StudentArguments, {"layers": [2]}, "layers", (2,)),
        (StudentArguments, {"dropout": "1e-1"}, "dropout", 0.1),
        (DataArguments, {**DATA, "label_names": "no,yes"}, "label_names", ("no", "yes")),
        (DataArguments, {**DATA, "label_names": ["no", "yes"]}, "label_names", ("no", "yes")),
        (DataArguments, {**DATA, "text_column": ["title", "body"]}, "text_columns", ("title", "body")),
        (DataArguments, {**DATA, "text_column": "a,b"}, "text_columns", ("a,b",)),
        (DataArguments, {**DATA, "dataset_config": "en"}, "config", "en"),
        (DataArguments, {**DATA, "max_length": None}, "max_length", 128),
        (PruningArguments, {"target_size": "500KB"}, "target_size", 0.5),
        (PruningArguments, {"target_size": 10}, "target_size", 10.0),
        (PruningArguments, {"target_params": 0.5, "units": ["heads"]}, "units", ("heads",)),
        (LoraArguments, {"lora_rank": "4", "load_in_8bit": "true"}, "rank", 4),
        (BenchmarkOptions, {"models": ["a"], "batch_sizes": [1, 8]}, "batch_sizes", (1, 8)),
        (BenchmarkOptions, {"models": ["a"], "lengths": 16}, "data", None),
        (LabelOptions, {"teacher": "t", **DATA, "unlabelled": "more.txt"}, "unlabelled", ("more.txt",)),
        (PushOptions, {"folder": "x", "repo_id": "o/n", "public": True}, "private", False),
        (PushOptions, {"folder": "x", "repo_id": "o/n", "public": "false"}, "private", True),
        (ReportOptions, {"models": ["a"], "disagreements": "no"}, "disagreements", False),
    ],
)  # fmt: skip
def test_words_and_recipe_values_become_typed_values(kind, values, name, expected):
    assert getattr(build(kind, values), name) == expected


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ({"layer_map": [0, 0, 1, 1]}, "layer_map", [0, 0, 1, 1]),
        ({"objectives": {"logits": 0.5, "hidden": 1.0}}, "objectives", {"logits": 0.5, "hidden": 1.0}),
        ({"label_names": ["labels", "more_labels"]}, "label_names", ["labels", "more_labels"]),
        ({"learning_rate": "2e-4"}, "learning_rate", 2e-4),
    ],
)
def test_typed_values_of_a_recipe_become_training_arguments(tmp_path, values, name, expected):
    common = {"output_dir": str(tmp_path), "report_to": ["none"], "use_cpu": True}
    args = parse_training_arguments("DistillationTrainingArguments", common | values, {})
    value = getattr(args, name)
    assert (json.loads(value) if isinstance(value, str) else value) == expected


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataArguments, {**DATA, "label_names": [False, True]}, "YAML reads yes, no, on and off as true or false"),
        (DataArguments, {**DATA, "label_names": [0, 1]}, "--label-names [0, 1] has 0, which is not text"),
        (DataArguments, {**DATA, "max_length": "2"}, "--max-length 2 is too small; use at least 4"),
        (DataArguments, {**DATA, "max_length": 12.5}, "--max-length 12.5 is not a whole number"),
        (DataArguments, {**DATA, "max_length": True}, "--max-length True is not a number"),
        (StudentArguments, {"layers": "x"}, "--layers 'x' is neither a number of layers"),
        (StudentArguments, {"layers": True}, "--layers True is neither"),
        (StudentArguments, {"dropout": "nan"}, "--dropout 'nan' is not a finite number"),
        (PruningArguments, {"target_size": "big"}, "--target-size 'big' is not a size; write it as 10MB"),
        (PruningArguments, {"target_params": 0.5, "importance": "tailor"}, "did you mean taylor?"),
        (BenchmarkOptions, {"models": ["a"], "batch_sizes": [8, 0]}, "--batch-sizes 0 is too small"),
        (BenchmarkOptions, {}, "missing MODELS"),
        (PruneOptions, {"model": "m", "vocabulary": True, **DATA, "no_train": "maybe"}, "is neither true nor false"),
        (LabelOptions, {"teacher": 3, **DATA}, "TEACHER 3 is not text; put it in quotes"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_its_flag_and_the_way_out(kind, values, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build(kind, values)


def test_options_of_adapters_need_lora(run):
    code, _, err = run("finetune", "m", "--task", "sst2", "--output-dir", "x", "--lora-rank", 4)
    assert (code, "--lora-rank belongs to --lora: add --lora" in err) == (2, True)


def test_a_second_value_for_an_option_of_the_data_is_refused_with_both():
    """The first of two label columns would be dropped without a word. Other options may be overridden."""
    options = options_of(EvaluateOptions)
    with pytest.raises(InputError, match="--label-column is given twice, as 'a' and 'b'"):
        normalise(["--label-column", "a", "--label-column=b"], options)
    words = ["--text-column=a", "--text-column=b", "--batch-size=1", "--batch-size=2", "--task=sst2", "--task=sst2"]
    assert normalise(words, options) == words


def test_flags_and_values_are_normalised():
    options = [*options_of(PushOptions), *training_options("FineTuningArguments")]
    words = "--max_steps -1 --bf16 false --public --fp16 runs/x --include-for-metrics loss inputs --repo-id=o/n".split()
    assert normalise(words, options) == [
        *("--max-steps=-1", "--bf16=false", "--public=true", "--fp16=true", "runs/x"),
        *("--include-for-metrics=loss", "--include-for-metrics=inputs", "--repo-id=o/n"),
    ]
    optional = Option("fsdp", "", "none", metavar="[TEXT]")
    assert normalise(["--fsdp", "--bf16"], [*options, optional]) == ["--fsdp=", "--bf16=true"]
    assert normalise(["--no-average-tokens-across-devices"], options) == ["--average-tokens-across-devices=false"]
    assert normalise(["--no-disagreements", "--", "--live"], options_of(ReportOptions)) == [
        *("--disagreements=false", "--", "--live"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("distil t", "unknown command 'distil'; did you mean distill?"),
        ("frobnicate", "unknown command 'frobnicate'; the commands are pretrain, finetune"),
        ("--verison", "unknown option '--verison'; did you mean --version?"),
        ("evaluate m --teachers t", "unknown option '--teachers'; did you mean --teacher?"),
        ("distill t --temprature 2", "unknown option '--temprature'; did you mean --temperature?"),
        ("label t --xyz 1", "unknown option '--xyz'; tkd-hf label --help lists the options"),
        ("distill", "missing TEACHER and --output-dir; see tkd-hf distill --help"),
        ("run", "missing RECIPE"),
        ("label t u", "unexpected extra argument"),
    ],
)
def test_a_mistyped_command_or_option_gets_a_suggestion(run, words, message):
    code, _, err = run(*words.split())
    assert code == 2
    assert message in err.lower() if message.islower() else message in err
    assert err.startswith("tkd-hf: ")


def test_a_mistyped_key_of_a_recipe_gets_a_suggestion(run, tmp_path):
    (tmp_path / "recipe.yaml").write_text("teacher: t\ndata: {task: sst2}\nstages: [{distill: {temprature: 2}}]")
    code, _, err = run("run", tmp_path / "recipe.yaml")
    assert (code, "sets temprature, but `tkd-hf distill` has no such option; did you mean temperature?" in err) == (
        2,
        True,
    )


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_both_flags_show_help(run, flag):
    code, out, _ = run("distill", flag)
    assert code == 0
    assert "--per-device-train-batch-size N" in out
    assert "Learning Rate & Scheduler:" in out
    assert run(flag)[1].count("\n  distill ") == 1


def test_the_version_is_shown(run):
    code, out, _ = run("--version")
    assert (code, out) == (0, f"tkd-hf {tkd_hf.__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_and_installed(run, shell, monkeypatch, tmp_path):
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, script, _ = run("--show-completion")
    assert (code, "_TKD_HF_COMPLETE" in script) == (0, True)
    assert run("--install-completion")[0] == run("--install-completion")[0] == 0
    [written] = [
        path for path in tmp_path.rglob("*") if path.is_file() and path.name in ("tkd-hf.fish", f"completion.{shell}")
    ]
    assert written.read_text().strip() == script.strip()
    if shell != "fish":
        assert (tmp_path / f".{shell}rc").read_text().count(str(written)) == 1


def test_completion_offers_commands_options_and_choices():
    from click.shell_completion import BashComplete

    completion = BashComplete(app, {}, "tkd-hf", "_TKD_HF_COMPLETE")
    assert [item.value for item in completion.get_completions([], "dis")] == ["distill"]
    assert "--temperature" in [item.value for item in completion.get_completions(["distill"], "--temp")]
    assert [item.value for item in completion.get_completions(["prune", "--importance"], "t")] == ["taylor"]


def test_an_option_class_of_another_program_is_built_in_the_same_way():
    @option_class
    class Options:
        name: str = option(help="A name.")
        count: int = option(default=2, maximum=3, help="A number. More about it.")

    assert [described.description for described in options_of(Options)] == [
        "A name (required).", "A number (2). More about it."
    ]  # fmt: skip
    assert build(Options, {"name": "x", "count": "3"}) == Options("x", 3)
    with pytest.raises(InputError, match="--count 4 is too large; use at most 3"):
        build(Options, {"name": "x", "count": 4})


def test_suggested_commands_name_the_data_completely_and_are_quoted():
    data = DataArguments(
        dataset="my data", text_columns=("title", "body text"), label_names=("no", "yes"), max_length=64
    )
    command = COMMANDS["label"].next_command(LabelOptions("my teacher", data, path="soft labels"), None)
    words = shlex.split(command)
    assert words[:5] == ["tkd-hf", "distill", "my teacher", "--soft-labels", "soft labels"]
    assert words[-4:] == ["--layers", "3", "--output-dir", "…"]
    pairs = list(zip(words[5:-4:2], words[6:-4:2], strict=True))
    assert pairs == [
        ("--dataset", "my data"),
        ("--text-column", "title"),
        ("--text-column", "body text"),
        ("--label-names", "no,yes"),
        ("--max-length", "64"),
    ]


def test_a_command_after_a_run_needs_no_data_and_drops_none_silently():
    assert build(LabelOptions, {"teacher": "t"}).data is None
    with pytest.raises(InputError, match="--eval-split has no effect without --task or --dataset; add it"):
        build(LabelOptions, {"teacher": "t", "eval_split": "test"})


@pytest.mark.parametrize(
    "given", [{"dataset": "mine.csv"}, {"task": "sst2", "unlabelled": ["x.txt", "mine.csv:train"]}]
)
def test_results_are_not_written_over_an_input(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").touch()
    with pytest.raises(InputError, match=r"mine\.csv is itself read by this command"):
        COMMANDS["label"].build({"teacher": "t", "json": "./mine.csv", **given})


def test_an_option_of_data_alone_changes_the_data_that_the_run_names(tmp_path):
    inputs = {"data": {"task": "sst2", "data_dir": str(tmp_path), "max_length": 64}}
    write_record(tmp_path, StageRecord("distill", inputs, {}, software={}, hardware={}))
    options, _ = COMMANDS["evaluate"].build({"model": str(tmp_path), "eval_split": "test", "max_length": "32"})
    assert options.data == DataArguments(task="sst2", data_dir=str(tmp_path), eval_split="test", max_length=32)
