"""Options shared by the commands, and how flags, recipe and training arguments are combined.

Help texts have the form "What it sets (default)." The display of defaults by typer is off: many options default to
`None`, which stands for a value that is set elsewhere, such as the number of threads that torch uses.
"""

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..core.errors import InputError
from .recipe import Recipe


if TYPE_CHECKING:
    from ..data.arguments import DataArguments
    from ..models.arguments import LoraArguments
    from ..objectives.arguments import FineTuningArguments


# Keys of a context for training arguments, spelled as on the command line: those given as flags, and by a recipe.
_EXTRAS, RECIPE_EXTRAS = "tkd_hf.extras", "tkd_hf.recipe_extras"


class TrainingCommand(TyperCommand):
    """A command that passes unknown options, and the words up to the next option, on to the training arguments.

    Model names must therefore come before such options.
    """

    def parse_args(self, ctx, args):
        own_options = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        own, extras = [], ctx.meta.setdefault(_EXTRAS, [])
        target = own
        for word in args:
            if word.startswith("--"):
                target = own if word.partition("=")[0] in own_options else extras
            target.append(word)
        return super().parse_args(ctx, own)


def read_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Use a recipe's values as the command's defaults, so that flags override them."""
    if path is None:
        return None
    recipe, command = Recipe.read(path), context.info_name
    stages = [options for name, options in recipe.stages if name == command]
    if len(stages) > 1:
        raise InputError(
            f"the recipe {path} has {len(stages)} stages named {command}; run all of them with `tkd-hf run {path}`"
        )
    common = {"teacher": recipe.teacher, "model": recipe.model, "output_dir": recipe.output_dir}
    values = stage_values(context.command, recipe, common, stages[0] if stages else {})
    context.default_map, context.meta[RECIPE_EXTRAS] = option_defaults(context.command, values)
    return path


def stage_values(
    command: TyperCommand, recipe: Recipe, common: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Collect the values of one stage, by the names of options and training arguments.

    Args:
        command: the stage's command.
        recipe: names the data of all stages that name none.
        common: values for all stages; those for which the command has no option are ignored.
        options: values of this stage. They override the common values, `null` included, and must all be known.

    Raises:
        InputError: for unknown names.
    """
    flags = {parameter.name for parameter in command.params}
    unknown = [name for name in recipe.data if name not in DATA_OPTIONS]
    if unknown:
        raise InputError(
            f"the data of the recipe {recipe.path} has unknown keys {', '.join(unknown)}; "
            f"the keys are {', '.join(DATA_OPTIONS)}"
        )
    extras = [name for name in options if name not in flags]
    if extras and not isinstance(command, TrainingCommand):
        raise InputError(
            f"the recipe {recipe.path} sets {', '.join(extras)}, but `tkd-hf {command.name}` has no such option"
        )
    shared = {name: value for name, value in {**common, **recipe.data_options_for(options)}.items() if name in flags}
    return {name: value for name, value in (shared | options).items() if value is not None}


def option_defaults(command: TyperCommand, values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Split a stage's values into defaults of the command's options and words for the training arguments."""
    flags = {parameter.name: parameter for parameter in command.params}
    defaults, extras = {}, []
    for name, value in values.items():
        if name not in flags:
            extras += [f"--{name}", _to_text(value)]
        elif getattr(flags[name], "multiple", False) or flags[name].nargs == -1:
            defaults[name] = [value] if isinstance(value, str) else value
        else:
            # a recipe may write a list or a mapping for an option that takes one word
            defaults[name] = _to_text(value)
    return defaults, extras


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def training_arguments(
    kind: type["FineTuningArguments"],
    context: typer.Context,
    output_dir: Path,
    lora: "LoraArguments | None" = None,
    **values: Any,
) -> "FineTuningArguments":
    """Build training arguments from the recipe, the unknown flags and the command's own options.

    The command's own options override the unknown flags, and these override the recipe.
    With LoRA the learning rate has a higher default.

    Raises:
        InputError: for a flag that is not a field of `kind`, or a bad value.
    """
    from transformers import HfArgumentParser

    def refuse(message: str):
        raise InputError(f"{message}; every field of {kind.__name__} is an option, such as --learning-rate 1e-4")

    parser = HfArgumentParser(kind, allow_abbrev=False)
    parser.error = refuse
    if lora:
        from ..models.arguments import LORA_LEARNING_RATE

        parser.set_defaults(learning_rate=LORA_LEARNING_RATE)
    own_words = [word for name, value in values.items() if value is not None for word in (f"--{name}", _to_text(value))]
    words = [*context.meta.get(RECIPE_EXTRAS, []), *context.meta[_EXTRAS], *own_words, "--output_dir", str(output_dir)]
    try:
        args, unparsed = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f'{error.doc!r} is not JSON ({error}); write weights as {{"logits": 0.9}}') from error
    except (ValueError, ImportError) as error:
        raise InputError(" ".join(str(error).split())) from error
    if unparsed:
        refuse(f"unknown {'option' if unparsed[0].startswith('-') else 'argument'} {unparsed[0]!r}")
    return args


option = functools.partial(typer.Option, show_default=False)

Config = Annotated[
    Path | None,
    option("--config", callback=read_recipe, is_eager=True, help="Recipe (YAML) with options; flags override it."),
]
OutputDir = Annotated[Path, option("--output-dir", help="Folder for the run.")]
Seed = Annotated[int | None, option("--seed", help="Random seed for initialisation, shuffling and dropout (42).")]
Overwrite = Annotated[bool, option("--overwrite", help="Delete the run in the output folder and start again.")]
Resume = Annotated[bool, option("--resume", help="Continue the run in the output folder.")]
JsonFile = Annotated[Path | None, option("--json", help="File for the results as JSON (none).")]
Unlabelled = Annotated[
    list[str] | None,
    option(
        "--unlabelled", help="More texts, without labels: file, Hub id (org/name:split) or task; repeatable (none)."
    ),
]
Threads = Annotated[
    int | None, option("--threads", min=1, help="Processor threads for every backend (as many as torch uses).")
]
Temperature = Annotated[float | None, option("--temperature", help="Temperature that softens both distributions (2).")]
Objectives = Annotated[
    str | None,
    option("--objectives", help='Weight of each objective, as JSON (\'{"logits": 0.9, "hard": 0.1}\').'),
]
SoftLabels = Annotated[Path | None, option("--soft-labels", help="File of soft labels (in the cache).")]
Live = Annotated[bool, option("--live", help="Run the teacher on each batch instead of storing soft labels.")]
BatchSizes = Annotated[str, option("--batch-sizes", help="Batch sizes to time (1,8,32).")]
Lengths = Annotated[
    str, option("--lengths", help="Text lengths to time in addition to real texts, in tokens (16,64,128).")
]
Rounds = Annotated[int, option("--rounds", min=1, help="Timings per model, batch size and length (50).")]
MaxDrop = Annotated[
    float | None,
    option("--max-drop", min=0, help="Largest drop of the main metric that passes, such as 0.005 (no limit)."),
]
BatchSize = Annotated[int, option("--batch-size", min=1, help="Examples per batch (128).")]


def _data_option(annotation: type, *flag: str, **kwargs) -> Any:
    return Annotated[annotation, option(*flag, rich_help_panel="Data", **kwargs)]


# The fields of `DataArguments` as options, with their defaults.
DATA_OPTIONS = {
    "task": (_data_option(str | None, help="GLUE task, such as sst2, cola, mrpc, stsb, qqp or mnli."), None),
    "dataset": (_data_option(str | None, help="Data set instead of a task: Hub id, or local file or folder."), None),
    "data_dir": (
        _data_option(str | None, help="Folder with copies of tasks, DIR/TASK/SPLIT.parquet (the Hub's)."),
        None,
    ),
    "dataset_config": (_data_option(str | None, help="Configuration of a Hub data set (its default)."), None),
    "text_column": (
        _data_option(list[str] | None, help="Column of texts; repeat it for pairs (text, sentence, tokens or words)."),
        None,
    ),
    "label_column": (
        _data_option(str | None, help="Column of labels (label; for lists of words also ner_tags, tags or labels)."),
        None,
    ),
    "label_names": (
        _data_option(
            str | None, help="Class names in the order of the label codes, such as no,yes (those of the data)."
        ),
        None,
    ),
    "train_split": (_data_option(str | None, help="Split to train on, or a slice such as train[:90%] (train)."), None),
    "eval_split": (
        _data_option(str | None, help="Split to evaluate on, or a slice (the task's validation split)."),
        None,
    ),
    "max_length": (_data_option(int, min=4, help="Number of tokens to which texts are truncated (128)."), 128),
}


def with_data(command: Callable, default_task: Callable[[dict[str, Any]], str | None] | None = None) -> Callable:
    """Add the data options to a command, and pass them to it as one argument, `data`.

    Args:
        command: the command.
        default_task: called with the command's other values if no data are named; returns the task, or `None` for
            `data=None`. By default data must be named.
    """

    def build(given: dict[str, Any], values: dict[str, Any]) -> "DataArguments | None":
        if default_task and not (given["task"] or given["dataset"]):
            given["task"] = default_task(values)
            if given["task"] is None:
                return None
        from ..data.arguments import DataArguments

        given["config"] = given.pop("dataset_config")
        given["text_columns"] = tuple(given.pop("text_column") or ())
        given["label_names"] = tuple(given["label_names"].split(",")) if given["label_names"] else ()
        return DataArguments(**given)

    return _with_options(command, "data", DATA_OPTIONS, build)


with_optional_data = functools.partial(with_data, default_task=lambda values: None)


def _lora_option(annotation: type, flag: str, **kwargs) -> Any:
    return Annotated[annotation, option(flag, rich_help_panel="LoRA", **kwargs)]


# `--lora` and the fields of `LoraArguments`. `None` and false mean the default of the dataclass.
LORA_OPTIONS = {
    "lora": (_lora_option(bool, "--lora", help="Train LoRA adapters on the frozen model, then merge them."), False),
    "lora_rank": (_lora_option(int | None, "--lora-rank", help="Rank of the adapters (8)."), None),
    "lora_targets": (
        _lora_option(str | None, "--lora-targets", help="Layers that get adapters: linear or attention (linear)."),
        None,
    ),
    "load_in_8bit": (
        _lora_option(bool, "--load-in-8bit", help="Load the frozen model in 8 bits, with bitsandbytes."),
        False,
    ),
    "load_in_4bit": (
        _lora_option(bool, "--load-in-4bit", help="Load the frozen model in 4 bits, as QLoRA does."),
        False,
    ),
    "adapter_only": (
        _lora_option(bool, "--adapter-only", help="Keep only the adapter, so that several tasks can share a model."),
        False,
    ),
}


def with_lora(command: Callable) -> Callable:
    """Add the LoRA options to a command, and pass them to it as one argument, `lora` (`None` without LoRA)."""

    def build(given: dict[str, Any], values: dict[str, Any]) -> "LoraArguments | None":
        settings = {name: value for name, value in given.items() if value is not None and value is not False}
        if not settings.pop("lora", False):
            if settings:
                raise InputError(f"--{next(iter(settings)).replace('_', '-')} is an option of adapters: add --lora")
            return None
        from ..models.arguments import LoraArguments

        return LoraArguments(**{name.removeprefix("lora_"): value for name, value in settings.items()})

    return _with_options(command, "lora", LORA_OPTIONS, build)


def _with_options(command: Callable, argument: str, options: dict[str, tuple], build: Callable) -> Callable:
    """Add options to a command; `build(options' values, command's values)` combines them into one argument of it."""
    signature = inspect.signature(command)
    own = [parameter for name, parameter in signature.parameters.items() if name != argument]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in options.items()
    ]

    @functools.wraps(command)
    def wrapped(**values):
        given = {name: values.pop(name) for name in options}
        return command(**{argument: build(given, values), **values})

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + added
    wrapped.__signature__ = signature.replace(parameters=parameters)
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def parse_integers(flag: str, text: str) -> tuple[int, ...]:
    """Parse a list of positive integers such as `1,8,32`."""
    try:
        numbers = tuple(int(number) for number in text.strip("[]").split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"{flag} {text!r} must be a list of numbers of at least 1, such as 1,8,32")
    return numbers


def data_flags(data: "DataArguments") -> str:
    """Return the flags that name the data, for the suggestion of a next command."""
    return f"--task {data.task}" if data.task else f"--dataset {data.dataset}"


def merge_suggestion(lora: "LoraArguments | None", output_dir: Path) -> str | None:
    """Return the command that merges the trained adapter into a model; `None` if it is already merged."""
    if not (lora and lora.adapter_only):
        return None
    from ..models.checks import merge_command

    return merge_command(output_dir, f"{output_dir}-merged")
