"""A command of the console: its options, its first and last lines, and the checks that make it fail."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tkd_hf

from ..core.errors import InputError, did_you_mean
from ..core.files import check_output
from ..core.options import Option, build, option, option_class, options_of, parse_switch
from ..evaluation.tables import Table
from ..models.arguments import LORA_LEARNING_RATE
from .output import announce, store_and_show, suggest
from .training_arguments import parse_training_arguments, training_options


# training arguments that earlier stages or the top of a recipe may set
SHARED_TRAINING_ARGUMENTS = ("output_dir", "teacher")


@option_class
class ConsoleOptions:
    """Options that only the command line has."""

    config: str | Path | None = option(default=None, help="Recipe (YAML) with options; flags override it.")
    json: str | Path | None = option(default=None, help="File for the results as JSON.")


def _nothing(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Command:
    """A command of the console.

    Args:
        name: its name, and that of the public function.
        options: the option class of the function; its docstring is the help.
        first_line: says what the command is about to do, from its options and its console options.
        tables: the tables of the result, from options and result.
        after: prints more lines, from options and result.
        next_command: what one would type next, from options and result.
        console: the class of the options that only the console has.
        complete: completes the given values before options are built from them.
        check: refuses options and console options that do not fit together.
        gate: raises `CheckFailed` if the result is not good enough, from options, console options and result.
        call: does the work, from options and console options (the public function).
    """

    name: str
    options: type
    first_line: Callable[[Any, Any], str]
    tables: Callable[[Any, Any], Iterable[Table]]
    next_command: Callable[[Any, Any], str | None] = _nothing
    after: Callable[[Any, Any], None] = _nothing
    console: type = ConsoleOptions
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict
    check: Callable[[Any, Any], None] = _nothing
    gate: Callable[[Any, Any, Any], None] = _nothing
    call: Callable[[Any, Any], Any] | None = None

    @property
    def help(self) -> str:
        """The first sentence of the help."""
        return help_of(self.options)

    @cached_property
    def training_class(self) -> str | None:
        """Name of the class of training arguments whose fields are options as well."""
        return next((str(field.type) for field in dataclasses.fields(self.options) if field.name == "args"), None)

    @cached_property
    def training_options(self) -> tuple[Option, ...]:
        """The training arguments as options, without those that the command has itself."""
        own = {entry.name for entry in (*options_of(self.options), *options_of(self.console))}
        fields = training_options(self.training_class) if self.training_class else ()
        return tuple(entry for entry in fields if entry.name not in own)

    @cached_property
    def all_options(self) -> tuple[Option, ...]:
        """All options, the command's own first."""
        own = [*options_of(self.options), *options_of(self.console)]
        ungrouped = [entry for entry in own if not entry.group]
        grouped = [entry for entry in own if entry.group]
        first = [entry for entry in self.training_options if not entry.group]
        return (*first, *ungrouped, *grouped, *(entry for entry in self.training_options if entry.group))

    @cached_property
    def own_names(self) -> frozenset[str]:
        """Names of the options for which a recipe may give one value for all stages: training arguments are not."""
        own = [*options_of(self.options), *options_of(self.console), *self.training_options]
        return frozenset(entry.name for entry in own if entry.path != "args" or entry.name in SHARED_TRAINING_ARGUMENTS)

    def missing(self, values: Mapping[str, Any]) -> list[Option]:
        """Return the required options that have no value."""
        own = [entry for entry in options_of(self.options) if not entry.path]  # groups check their own options
        return [
            entry for entry in (*own, *self.training_options) if not entry.default and values.get(entry.name) is None
        ]

    def build(self, values: Mapping[str, Any]) -> tuple[Any, Any]:
        """Make the options of the function and of the console from values by name: words, or typed values.

        Raises:
            InputError: for a name that is no option, for a value that is missing or refused, and for options that do
                not fit together.
        """
        names = [entry.name for entry in self.all_options]
        for name in values:
            if name not in names:
                raise InputError(f"`tkd-hf {self.name}` has no option {name!r}{did_you_mean(name, names)}")
        values = self.complete(dict(values))
        if self.training_class:
            values["args"] = self._training_arguments(values)
        options: Any = build(self.options, values)
        console: Any = build(self.console, values)
        if console.json is not None:
            check_output(console.json, _words(values))
        self.check(options, console)
        return options, console

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Build the options, run the command, print its result, and return it for JSON."""
        options, console = self.build(values)
        announce(self.first_line(options, console))
        result = self.call(options, console) if self.call else getattr(tkd_hf, self.name)(**vars(options))
        content = store_and_show(console.json, _content(result), *self.tables(options, result))
        self.after(options, result)
        if next_command := self.next_command(options, result):
            suggest(next_command)
        self.gate(options, console, result)
        return content

    def _training_arguments(self, values: Mapping[str, Any]) -> Any:
        given = {
            entry.name: values[entry.name] for entry in self.training_options if values.get(entry.name) is not None
        }
        bare = [
            entry.name for entry in self.training_options if entry.value_is_optional and given.get(entry.name) == ""
        ]
        given |= dict.fromkeys(bare, ())
        if "output_dir" in given:
            given["output_dir"] = str(Path(given["output_dir"]))
        defaults = {"learning_rate": LORA_LEARNING_RATE} if is_on(values.get("lora")) else {}
        return parse_training_arguments(self.training_class or "", given, defaults)


def _words(values: Mapping[str, Any]) -> list[str | Path]:
    """Return the values that may name what a command reads."""
    given = [value for name, value in values.items() if name not in ("json", "output_dir")]
    words = [word for value in given for word in (value if isinstance(value, list | tuple) else [value])]
    return [word for word in words if isinstance(word, str | Path)]


def help_of(options: type) -> str:
    """Return the docstring of an option class, which is the help of its command."""
    return inspect.cleandoc(options.__doc__ or "")


def is_on(value: Any) -> bool:
    """Return whether a value that was given for a switch turns it on."""
    try:
        return value is not None and parse_switch(value)
    except ValueError:
        return False  # `build` says why it is refused


def _content(result: Any) -> dict[str, Any]:
    if isinstance(result, str):  # the text of a card
        return {"card": result}
    return result.to_dict() if hasattr(result, "to_dict") else vars(result)
