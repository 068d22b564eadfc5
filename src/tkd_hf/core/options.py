"""Options, declared once: as fields of a dataclass that the command line, recipes, help and the reference read.

    @option_class
    class DataArguments:
        task: str | None = option(default=None, help="GLUE task, such as sst2.")
        max_length: int = option(default=128, minimum=4, help="Number of tokens at which texts are truncated.")

`options_of` lists the options of such a class and of the classes nested in it. `build` makes an object of the class
from values by option name: words from the command line, or typed values from a recipe.
"""

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Any, ParamSpec, TypeVar

from .errors import InputError, did_you_mean


Given = ParamSpec("Given")
Kind = TypeVar("Kind")
Result = TypeVar("Result")
SWITCH_VALUES = dict.fromkeys(["true", "yes", "on", "1"], True) | dict.fromkeys(["false", "no", "off", "0"], False)


@dataclass(frozen=True)
class Option:
    """An option as the command line, recipes and the reference show it.

    Args:
        name: key in recipes; the flag without its dashes, and with underscores.
        help: what it sets, as a phrase that ends with a full stop; more sentences may follow.
        default: the default as text; empty if the option is required.
        kind: type of the value without `None`, such as `int` or `tuple[str, ...]`.
        group: heading in help; empty for the command's own options.
        off: flag of a switch that is on by default, such as `--no-train`.
        positional, multiple, choices, metavar: as in `option`.
        python_name: name of the field, which Python callers use; `path` is the name of the nested class's field.
    """

    name: str
    help: str
    default: str
    kind: Any = str
    group: str = ""
    positional: bool = False
    off: str | None = None
    multiple: bool = False
    choices: tuple[str, ...] = ()
    metavar: str = "TEXT"
    python_name: str = ""
    path: str = ""

    @property
    def flag(self) -> str:
        """The flag, such as `--output-dir`; for a switch that is on by default the one that turns it off."""
        return self.off or f"--{self.name.replace('_', '-')}"

    @property
    def label(self) -> str:
        """Its flag, or its name in capitals if it has none."""
        return self.name.upper() if self.positional else self.flag

    @property
    def is_switch(self) -> bool:
        """Whether the flag needs no value."""
        return self.kind is bool

    @property
    def value_is_optional(self) -> bool:
        """Whether the flag may also stand alone; its metavar is in square brackets then."""
        return self.metavar.startswith("[")

    @property
    def description(self) -> str:
        """The help, with the default in brackets at the end of its first sentence."""
        summary, separator, details = self.help.partition(". ")
        return f"{summary.removesuffix('.')} ({self.default or 'required'}).{' ' * bool(separator)}{details}"


def option(
    *,
    default: Any = MISSING,
    kw_only: bool = False,
    help: str,
    flag: str | None = None,
    off: str | None = None,
    parse: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Iterable[str] = (),
    multiple: bool = False,
    shown_default: str | None = None,
    positional: bool = False,
    console: bool = True,
) -> Any:
    """Declare an option: the field of a dataclass.

    Args:
        default: the default; without one the option is required.
        kw_only: whether Python callers must name it.
        help: a phrase such as "Number of layers to keep."; more sentences may follow. The default is added.
        flag: the flag (the field's name with dashes).
        off: flag that turns off a switch that is on by default (`--no-` and the field's name).
        parse: turns a word or a value of a recipe into the field's value (decided by the field's type). It raises
            `ValueError` with a phrase such as "is not a size; write it as 10MB".
        metavar: what stands for the value in help (decided by the field's type).
        minimum, maximum: bounds of a number, inclusive.
        choices: the accepted values.
        multiple: whether the flag is repeated for several values, which are otherwise separated by commas.
        shown_default: what the default means, such as "the teacher's".
        positional: whether it is an argument without a flag.
        console: whether the command line and recipes have it; otherwise only Python callers do.
    """
    settings = {
        "flag": flag,
        "off": off,
        "parse": parse,
        "metavar": metavar,
        "minimum": minimum,
        "maximum": maximum,
        "choices": tuple(choices),
        "multiple": multiple,
        "shown_default": shown_default,
        "positional": positional,
        "console": console,
    }
    return field(default=default, kw_only=kw_only, metadata={"help": help, "option": settings})


def group(
    title: str,
    *,
    default: Any = MISSING,
    help: str,
    switch: str | None = None,
    named_by: Sequence[str] = (),
) -> Any:
    """Declare a nested dataclass whose options become options of the outer one, under a heading of their own.

    Args:
        title: the heading; empty to list them with the outer class's own options.
        default: the default for Python callers. If it is `None`, `switch` or `named_by` is required.
        help: what the object is, for the reference.
        switch: help of the switch, named like the field, that turns the group on.
        named_by: options of which one must be given to turn the group on; otherwise the object is `None`.
    """
    settings = {"title": title, "switch": switch, "named_by": tuple(named_by)}
    return field(default=default, metadata={"help": help, "group": settings})


@typing.dataclass_transform(frozen_default=True, field_specifiers=(option, group))
def option_class(kind: type[Kind]) -> type[Kind]:
    """Make a frozen dataclass; type checkers learn from this that `option` without a default is required."""
    return dataclass(frozen=True)(kind)


def accepts(kind: Callable[Given, Kind]) -> Callable[[Callable[[Kind], Result]], Callable[Given, Result]]:
    """Return a decorator for functions of one options object: callers give the fields of its class instead.

        @accepts(LabelOptions)
        def label(options: LabelOptions) -> LabelResult: ...

        label("org/teacher", DataArguments(task="sst2"), batch_size=8)

    `inspect.signature` and `help` show these fields.
    """

    def decorate(function: Callable[[Kind], Result]) -> Callable[Given, Result]:
        @functools.wraps(function)
        def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            return function(kind(*args, **kwargs))

        parameters = inspect.signature(kind).parameters.values()
        result = function.__annotations__.get("return", inspect.Signature.empty)
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined] # for help() and the reference
            list(parameters), return_annotation=result
        )
        return call

    return decorate


@functools.cache
def options_of(kind: type) -> tuple[Option, ...]:
    """Return the options of a class and of its groups, in the order of declaration.

    Groups whose class is named by a string are left out: they are loaded only when a command runs.
    """
    options: list[Option] = []
    for declared in dataclasses.fields(kind):
        if "group" in declared.metadata and not isinstance(declared.type, str):
            settings = declared.metadata["group"]
            if settings["switch"]:
                options.append(
                    Option(declared.name, settings["switch"], "off", bool, settings["title"], path=declared.name)
                )
            options += [
                dataclasses.replace(nested, group=nested.group or settings["title"], path=declared.name)
                for nested in options_of(_without_none(declared.type))
            ]
        elif "option" in declared.metadata and declared.metadata["option"]["console"]:
            options.append(_option_of(declared))
    return tuple(options)


def build(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Make an object of an option class from values by option name; other names are ignored.

    Args:
        kind: the class.
        values: words or typed values. `None` stands for the default. An object under the name of a nested field is
            used as it is.

    Raises:
        InputError: if a value is missing, cannot be parsed, or is out of range or none of the choices, or if the class
            itself refuses the values. The message names the flag, the value and the way out.
    """
    arguments: dict[str, Any] = {}
    for declared in dataclasses.fields(kind):  # type: ignore[arg-type] # `option_class` makes dataclasses
        if "group" in declared.metadata:
            arguments |= _build_group(declared, values)
        elif "option" in declared.metadata:
            described = _option_of(declared)
            if values.get(described.name) is not None:
                arguments[declared.name] = _parse(declared, described, values[described.name])
            elif declared.default is MISSING:
                raise InputError(f"missing {described.label}")
    return kind(**arguments)


def parse_switch(value: Any) -> bool:
    """Parse a boolean, or a word such as `true` or `no`."""
    word = str(value).strip().lower()
    if not isinstance(value, bool | str) or word not in SWITCH_VALUES:
        raise ValueError("is neither true nor false")
    return SWITCH_VALUES[word]


def parse_names(value: Any) -> str | tuple[str, ...]:
    """Parse a model's name, or a list of names."""
    names = _convert(tuple[str, ...], value, split=False)
    return names[0] if isinstance(value, str) else names


def _build_group(declared: dataclasses.Field, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested object by the name of its field; nothing if the field keeps its default."""
    name, settings = declared.name, declared.metadata["group"]
    if isinstance(declared.type, str):  # built by the caller
        return {name: values[name]} if name in values else {}
    nested = _without_none(declared.type)
    if settings["named_by"] and not any(values.get(key) for key in settings["named_by"]):
        if alone := [entry.flag for entry in options_of(nested) if values.get(entry.name) is not None]:
            raise InputError(f"{alone[0]} has no effect without --{' or --'.join(settings['named_by'])}; add it")
        return {name: None} if declared.default is MISSING else {}
    if settings["switch"]:
        switched_on = values.get(name) is not None and _converted(f"--{name}", bool, parse_switch, values[name])
        given = [described.flag for described in options_of(nested) if values.get(described.name) not in (None, False)]
        if not switched_on and given:
            raise InputError(f"{given[0]} belongs to --{name}: add --{name}")
        if not switched_on:
            return {}
    return {name: build(nested, values)}


def _option_of(declared: dataclasses.Field) -> Option:
    settings = declared.metadata["option"]
    kind = _value_kind(declared.type)
    word = settings["flag"] or f"--{declared.name.replace('_', '-')}"
    off = None
    if kind is bool and declared.default is True:
        off = settings["off"] or f"--no-{word.removeprefix('--')}"
        word = settings["off"] or word
    return Option(
        name=word.removeprefix("--").replace("-", "_"),
        help=declared.metadata["help"],
        default="" if declared.default is MISSING else settings["shown_default"] or default_text(declared.default),
        kind=kind,
        positional=settings["positional"],
        off=off,
        multiple=settings["multiple"],
        choices=settings["choices"],
        metavar=settings["metavar"] or _metavar(kind, settings),
        python_name=declared.name,
    )


def default_text(value: Any) -> str:
    """Return a default as help shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ((), ""):
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _metavar(kind: Any, settings: Mapping[str, Any]) -> str:
    if settings["choices"]:
        return "|".join(settings["choices"])
    elements = typing.get_args(kind)
    name = {int: "N", float: "NUMBER", Path: "PATH"}.get(elements[0] if elements else kind, "TEXT")
    return f"{name},…" if elements and not settings["multiple"] else name


def _parse(declared: dataclasses.Field, described: Option, value: Any) -> Any:
    """Parse and check one value."""
    settings = declared.metadata["option"]
    flag = described.label
    parse = settings["parse"] or functools.partial(_convert, described.kind, split=not described.multiple)
    parsed = _converted(flag, described.kind, parse, value)
    for number in parsed if isinstance(parsed, tuple) else (parsed,):
        if settings["minimum"] is not None and not number >= settings["minimum"]:
            raise InputError(f"{flag} {number} is too small; use at least {settings['minimum']}")
        if settings["maximum"] is not None and not number <= settings["maximum"]:
            raise InputError(f"{flag} {number} is too large; use at most {settings['maximum']}")
        if described.choices and number not in described.choices:
            raise InputError(
                f"unknown {described.name} {number!r}; choose among {', '.join(described.choices)}"
                f"{did_you_mean(str(number), described.choices)}"
            )
    return not parsed if settings["off"] else parsed


def _converted(flag: str, kind: Any, parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise InputError(f"{flag} {value!r} {error}") from None


def _convert(kind: Any, value: Any, split: bool = True) -> Any:
    """Convert a word, or a value of a recipe, to a type; a `ValueError` says why it cannot be."""
    if elements := typing.get_args(kind):
        return tuple(_convert_element(elements[0], element, value) for element in _elements(value, split))
    if kind is bool:
        return parse_switch(value)
    if kind in (str, Path):
        if isinstance(value, bool):
            raise ValueError("is not text; YAML reads yes, no, on and off as true or false, so put it in quotes")
        if not isinstance(value, str | Path):
            raise ValueError("is not text; put it in quotes")
        return kind(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is not a number")
    return _number(kind, value)


def _convert_element(kind: Any, element: Any, value: Any) -> Any:
    try:
        return _convert(kind, element)
    except ValueError as error:
        raise error if element == value else ValueError(f"has {element!r}, which {error}") from None


def _elements(value: Any, split: bool) -> list[Any]:
    if isinstance(value, str) and split:
        return [word.strip() for word in value.strip("[] ").split(",") if word.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _number(kind: type[float], value: float | str) -> float:
    expected = "a whole number" if kind is int else "a number"
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        raise ValueError(f"is not {expected}") from None
    if isinstance(value, float) and math.isfinite(value) and number != value:
        raise ValueError(f"is not {expected}")
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    return number


def _without_none(annotation: Any) -> Any:
    """Return an annotation without `None`."""
    if not isinstance(annotation, UnionType):
        return annotation
    members = [member for member in typing.get_args(annotation) if member is not NoneType]
    return functools.reduce(lambda first, second: first | second, members)


def _value_kind(annotation: Any) -> Any:
    """Return the type of an option's value: `tuple[T, ...]` for sequences, else a plain type."""
    annotation = _without_none(annotation)
    if isinstance(annotation, UnionType):  # such as `str | Path`, which Python callers may mix
        annotation = Path if Path in typing.get_args(annotation) else typing.get_args(annotation)[0]
    return GenericAlias(tuple, (elements[0], ...)) if (elements := typing.get_args(annotation)) else annotation
