"""The flags that commands share, and how flags, recipe and training arguments come together."""

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import InputError
from .recipe import Recipe


if TYPE_CHECKING:
    from ..adapters import LoraArguments
    from ..data.loading import DataArguments
    from ..training_args import FineTuningArguments


# What flags and recipe give beyond the options of a command: training arguments, as the command line spells them.
_EXTRAS, RECIPE_EXTRAS = "tkd_hf.extras", "tkd_hf.recipe_extras"


class TrainingCommand(TyperCommand):
    """A command that leaves options it does not know, with the words up to the next option, to the training arguments.

    Model names therefore come before such options.
    """

    def parse_args(self, ctx, args):
        known = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        own, extras = [], ctx.meta.setdefault(_EXTRAS, [])
        target = own
        for word in args:
            if word.startswith("--"):
                target = own if word.partition("=")[0] in known else extras
            target.append(word)
        return super().parse_args(ctx, own)


def read_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the recipe's values the defaults of the command: flags win over it, and it over the built-in defaults."""
    if path is None:
        return None
    recipe, command = Recipe.read(path), context.info_name
    stages = [options for name, options in recipe.stages if name == command]
    if len(stages) > 1:
        raise InputError(f"the recipe {path} has {len(stages)} stages {command}; `tkd-hf run {path}` executes them all")
    common = {"teacher": recipe.teacher, "model": recipe.model, "output_dir": recipe.output_dir}
    values = stage_values(context.command, recipe, common, stages[0] if stages else {})
    context.default_map, context.meta[RECIPE_EXTRAS] = option_defaults(context.command, values)
    return path


def stage_values(
    command: TyperCommand, recipe: Recipe, common: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The values of one stage by the names of options and training arguments.

    Args:
        command: the stage's command.
        recipe: gives the data, for stages that name none.
        common: what the recipe says to all stages; a command takes of it what it has options for.
        options: what it says to this one; they win, also with `null`, and all of them must be known.

    Raises:
        InputError: for unknown names.
    """
    flags = {parameter.name for parameter in command.params}
    unknown = [name for name in recipe.data if name not in DATA_OPTIONS]
    if unknown:
        raise InputError(
            f"the data of the recipe {recipe.path} has unknown keys {', '.join(unknown)}; "
            f"there are {', '.join(DATA_OPTIONS)}"
        )
    extras = [name for name in options if name not in flags]
    if extras and not isinstance(command, TrainingCommand):
        raise InputError(
            f"the recipe {recipe.path} sets {', '.join(extras)}, which `tkd-hf {command.name}` does not know"
        )
    shared = {name: value for name, value in {**common, **recipe.data_options_for(options)}.items() if name in flags}
    return {name: value for name, value in (shared | options).items() if value is not None}


def option_defaults(command: TyperCommand, values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values of a stage as defaults of the command's options, and the rest as words for the training arguments."""
    flags = {parameter.name: parameter for parameter in command.params}
    defaults = {
        # what a flag takes as one word, a recipe may write as a list or as weights by name
        name: ([value] if isinstance(value, str) else value)
        if getattr(flags[name], "multiple", False) or flags[name].nargs == -1
        else _to_text(value)
        for name, value in values.items()
        if name in flags
    }
    extras = [word for name, value in values.items() if name not in flags for word in (f"--{name}", _to_text(value))]
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
    """Training arguments from the recipe, then the unnamed flags, then the named ones that were given.

    With LoRA the learning rate has another default.

    Raises:
        InputError: for a flag that is no field of `kind`, or a value that it does not take.
    """
    from transformers import HfArgumentParser

    def refuse(message: str):
        raise InputError(f"{message}; any field of {kind.__name__} can be set, such as --learning-rate 1e-4")

    parser = HfArgumentParser(kind, allow_abbrev=False)
    parser.error = refuse
    if lora:
        from ..adapters import LORA_LEARNING_RATE

        parser.set_defaults(learning_rate=LORA_LEARNING_RATE)
    given = [word for name, value in values.items() if value is not None for word in (f"--{name}", _to_text(value))]
    words = [*context.meta.get(RECIPE_EXTRAS, []), *context.meta[_EXTRAS], *given, "--output_dir", str(output_dir)]
    try:
        args, rest = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f'{error.doc!r} is not JSON ({error}); write weights as {{"logits": 0.9}}') from error
    except (ValueError, ImportError) as error:
        raise InputError(" ".join(str(error).split())) from error
    if rest:
        refuse(f"unknown {'option' if rest[0].startswith('-') else 'argument'} {rest[0]!r}")
    return args


Config = Annotated[
    Path | None,
    typer.Option("--config", callback=read_recipe, is_eager=True, help="Recipe (YAML); flags win over it."),
]
OutputDir = Annotated[Path, typer.Option("--output-dir", help="Folder for the run.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of initialisation, order and dropout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run that the folder holds.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that the folder holds.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the results there, for machines.")]
Unlabelled = Annotated[
    list[str] | None,
    typer.Option(
        "--unlabelled", help="More texts to learn from, without labels: file, Hub id (org/name:split), or task."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Of the processor, for all backends; by default as many as torch uses."),
]
BatchSizes = Annotated[str, typer.Option("--batch-sizes", help="Texts in a batch that is timed.")]
Lengths = Annotated[str, typer.Option("--lengths", help="Tokens in a text, beside those of real texts.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="How often each model is timed with each shape.")]
MaxDrop = Annotated[
    float | None,
    typer.Option("--max-drop", min=0, help="Fail (exit code 1) if the main metric falls by more; 0.005: half a point."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Examples at a time.")]


def _data_option(annotation: type, *flag: str, **kwargs) -> Any:
    return Annotated[annotation, typer.Option(*flag, rich_help_panel="Data", **kwargs)]


# The fields of `DataArguments` as options, with their defaults.
DATA_OPTIONS = {
    "task": (_data_option(str | None, help="A GLUE task: sst2, cola, mrpc, stsb, qqp, mnli …"), None),
    "dataset": (_data_option(str | None, help="A Hub id, or a local folder or file of examples."), None),
    "data_dir": (_data_option(str | None, help="Local copies of tasks: DIR/TASK/SPLIT.parquet."), None),
    "dataset_config": (_data_option(str | None, help="Configuration of a Hub data set."), None),
    "text_column": (_data_option(list[str] | None, help="Column of text; twice for pairs."), None),
    "label_column": (_data_option(str | None, help="Column of labels."), None),
    "label_names": (_data_option(str | None, help="Class names in the order of codes: no,yes"), None),
    "train_split": (_data_option(str | None, help="Split to train on; a slice such as train[:90%] is fine."), None),
    "eval_split": (_data_option(str | None, help="Split to evaluate on, likewise."), None),
    "max_length": (_data_option(int, min=4, help="Tokens at which examples are cut."), 128),
}


def with_data(command: Callable, default_task: Callable[[dict[str, Any]], str | None] | None = None) -> Callable:
    """Gives a command the options about data, and hands them to it as one argument, `data`.

    Args:
        command: the command.
        otherwise: where no data is named, gives the task, of the command's other values, or `None`: `data` is then
            `None`, too. By default data must be named.
    """

    def arguments(given: dict[str, Any], values: dict[str, Any]) -> "DataArguments | None":
        if default_task and not (given["task"] or given["dataset"]):
            given["task"] = default_task(values)
            if given["task"] is None:
                return None
        from ..data.loading import DataArguments

        given["config"] = given.pop("dataset_config")
        given["text_columns"] = tuple(given.pop("text_column") or ())
        given["label_names"] = tuple(given["label_names"].split(",")) if given["label_names"] else ()
        return DataArguments(**given)

    return _with_options(command, "data", DATA_OPTIONS, arguments)


with_optional_data = functools.partial(with_data, default_task=lambda values: None)


def _lora_option(annotation: type, flag: str, **kwargs) -> Any:
    return Annotated[annotation, typer.Option(flag, rich_help_panel="LoRA", **kwargs)]


# `--lora` and the fields of `LoraArguments`; `None` and false stand for their defaults
LORA_OPTIONS = {
    "lora": (_lora_option(bool, "--lora", help="Train LoRA adapters on the frozen model, then merge them."), False),
    "lora_rank": (_lora_option(int | None, "--lora-rank", help="Width of the adapters. Default 8."), None),
    "lora_targets": (
        _lora_option(str | None, "--lora-targets", help="Layers that get them: linear (default) or attention."),
        None,
    ),
    "load_in_8bit": (_lora_option(bool, "--load-in-8bit", help="Freeze the model in 8 bits (bitsandbytes)."), False),
    "load_in_4bit": (_lora_option(bool, "--load-in-4bit", help="Freeze the model in 4 bits: QLoRA."), False),
    "adapter_only": (
        _lora_option(bool, "--adapter-only", help="Keep the adapter alone: several tasks may share one model."),
        False,
    ),
}


def with_lora(command: Callable) -> Callable:
    """Gives a command the options about LoRA, and hands them to it as one argument, `lora`; `None` without LoRA."""

    def arguments(given: dict[str, Any], values: dict[str, Any]) -> "LoraArguments | None":
        set_ = {name: value for name, value in given.items() if value is not None and value is not False}
        if not set_.pop("lora", False):
            if set_:
                raise InputError(f"--{next(iter(set_)).replace('_', '-')} says how to train adapters: add --lora")
            return None
        from ..adapters import LoraArguments

        return LoraArguments(**{name.removeprefix("lora_"): value for name, value in set_.items()})

    return _with_options(command, "lora", LORA_OPTIONS, arguments)


def _with_options(command: Callable, argument: str, options: dict[str, tuple], build: Callable) -> Callable:
    """A command with more options, which `build` makes one argument of; it is also given the command's own values."""
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
    """`1,8,32`."""
    try:
        numbers = tuple(int(number) for number in text.strip("[]").split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"{flag} {text!r} is no list of numbers from 1 up (1,8,32)")
    return numbers


def data_flags(data: "DataArguments") -> str:
    """How the data was named, for the suggestion of a next command."""
    return f"--task {data.task}" if data.task else f"--dataset {data.dataset}"


def merge_suggestion(lora: "LoraArguments | None", output_dir: Path) -> str | None:
    """The command that makes a model of what was trained, where that is an adapter alone."""
    if not (lora and lora.adapter_only):
        return None
    from ..adapters import merge_command

    return merge_command(output_dir, f"{output_dir}-merged")
