"""Training arguments as options: read from source code for help, and parsed by transformers when a command runs.

Importing transformers takes seconds, and `tkd-hf distill --help` must not. The names, defaults and help texts of the
fields of `transformers.TrainingArguments` and of our subclasses are therefore taken from the syntax trees of their
files. A test compares them with the real classes.
"""

import ast
import functools
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import tkd_hf

from ..core.errors import InputError
from ..core.options import Option, default_text


OWN_FILE = Path(__file__).parent.parent / "objectives" / "arguments.py"
BASE = "TrainingArguments"
# listed with the options that all commands have, in our words
COMMON = {"output_dir": "Folder for the run.", "seed": "Random seed for initialisation, shuffling and dropout."}
OWN_GROUPS = ("Objectives", "Training")  # our own fields, and those of transformers with other defaults
_HEADING = re.compile(r"^ {8}> (?!\[)(.+)$")
_PARAMETER = re.compile(r"^ {8}(\w+) ?\(")
_OWN_HELP = re.compile(r"(.+?) \((.+?)\)\.( .+)?")  # "What it sets (default). More about it."


@dataclass(frozen=True)
class _Field:
    """A field as its source code declares it; `literal` says whether the default is known without running the code."""

    name: str
    annotation: str
    default: Any
    literal: bool
    help: str
    value_is_optional: bool


@functools.cache
def training_options(name: str) -> tuple[Option, ...]:
    """Return the fields of a class of training arguments as options: our own first, then those of transformers.

    Args:
        name: a class in `tkd_hf.objectives.arguments`.
    """
    base_file = Path(_package_folder("transformers"), "training_args.py")
    theirs, headings = _base_fields(base_file.read_text(encoding="utf-8"))
    own = _own_fields(OWN_FILE.read_text(encoding="utf-8"), name)
    options = []
    for field in (own | {name: theirs[name] for name in theirs if name not in own}).values():
        if field.name not in own:
            group = headings.get(field.name, "Other training arguments")
        else:
            group = OWN_GROUPS[field.name in theirs]
        options.append(_option(field, "" if field.name in COMMON else group))
    order = ["", *OWN_GROUPS, *dict.fromkeys(headings.values())]
    return tuple(sorted(options, key=lambda option: order.index(option.group) if option.group in order else len(order)))


def parse_training_arguments(name: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    """Make training arguments from words or typed values by name.

    Args:
        name: name of the class, which `tkd_hf` exports.
        values: the values, by name of the field.
        defaults: defaults that differ from those of the class.

    Raises:
        InputError: for a value that transformers or the class refuses.
    """
    from transformers import HfArgumentParser

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; every field of {name} is an option, such as --learning-rate 1e-4")

    parser = HfArgumentParser(getattr(tkd_hf, name), allow_abbrev=False)
    parser.error = refuse  # type: ignore[method-assign] # it would exit the process
    parser.set_defaults(**defaults)
    lists = {option.name for option in training_options(name) if option.multiple}
    words = [word for key, value in values.items() for word in (f"--{key}", *_words(value, several=key in lists))]
    try:
        [args] = parser.parse_args_into_dataclasses(words)
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f'{error.doc!r} is not JSON ({error}); write weights as {{"logits": 0.9}}') from error
    except (ValueError, ImportError) as error:
        raise InputError(" ".join(str(error).split())) from error
    return args


def _words(value: Any, several: bool) -> list[str]:
    """Return a value as words of a command line, one per element if the option takes several words."""
    if several and isinstance(value, list | tuple):
        return [str(element) for element in value]
    return [value if isinstance(value, str) else json.dumps(value)]


def _package_folder(name: str) -> str:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{name} is not installed; repair the installation: pip install tkd-hf")
    return spec.submodule_search_locations[0]


def _base_fields(source: str) -> tuple[dict[str, _Field], dict[str, str]]:
    """Return the fields of `TrainingArguments`, and the heading of each in its docstring."""
    # parse the class alone, which is a quarter of the file
    start = source.index(f"\nclass {BASE}:")
    end = re.search(r"\n    def ", source[start:])
    [definition] = ast.parse(source[start : start + end.start()] if end else source[start:]).body
    assert isinstance(definition, ast.ClassDef)
    headings, heading = {}, ""
    for line in (ast.get_docstring(definition, clean=False) or "").splitlines():
        if match := _HEADING.match(line):
            heading = match[1]
        elif (match := _PARAMETER.match(line)) and heading:
            headings[match[1]] = heading
    return {field.name: field for field in _fields(definition)}, headings


def _own_fields(source: str, name: str) -> dict[str, _Field]:
    """Return the fields of one of our classes and of its bases in the same file."""
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        return {}
    inherited = [_own_fields(source, base.id) for base in classes[name].bases if isinstance(base, ast.Name)]
    own = {field.name: field for field in _fields(classes[name])}
    return functools.reduce(lambda first, second: first | second, [*inherited, own])


def _fields(definition: ast.ClassDef) -> Iterator[_Field]:
    """Yield the fields that a dataclass declares and accepts."""
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        call = node.value.keywords if isinstance(node.value, ast.Call) else []
        keywords = {keyword.arg: keyword.value for keyword in call}
        if isinstance(keywords.get("init"), ast.Constant):
            continue  # the only use of it is init=False
        metadata = keywords.get("metadata")
        entries = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
        declared = {_literal(key): _literal(value) for key, value in entries}
        default = keywords.get("default", keywords.get("default_factory", node.value))
        value = _literal(default)
        literal = value is not None or (isinstance(default, ast.Constant) and default.value is None)
        if isinstance(default, ast.Name) and "default_factory" in keywords:
            value, literal = {"dict": {}, "list": []}.get(default.id), default.id in ("dict", "list")
        yield _Field(
            node.target.id,
            ast.unparse(node.annotation),
            value,
            literal,
            declared.get("help") or "",
            declared.get("nargs") == "?",
        )


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _option(field: _Field, group: str) -> Option:
    match = _OWN_HELP.fullmatch(field.help) if group in OWN_GROUPS else None
    help_text, shown = (f"{match[1]}.{match[3] or ''}", match[2]) if match else (_first_sentence(field.help), "none")
    if field.literal and field.default is not None:
        shown = default_text(field.default) if field.default not in ({}, []) else "none"
    elif not field.literal and not match:
        shown = "chosen by transformers"
    required = field.name == "output_dir"
    kind = _parsed_type(field.annotation)
    is_switch = kind == "bool"
    option = Option(
        field.name,
        COMMON.get(field.name) or help_text,
        "" if required else shown,
        bool if is_switch else str,
        group,
        multiple=kind.startswith("list["),
        metavar=f"[{_metavar(field)}]" if field.value_is_optional else _metavar(field),
        python_name=field.name,
        path="args",
    )
    return (
        replace(option, off=f"--no-{field.name.replace('_', '-')}") if is_switch and field.default is True else option
    )


def _first_sentence(text: str) -> str:
    first = re.split(r"(?<=[^.])\.\s", text.strip(), maxsplit=1)[0]
    return f"{' '.join(first.split()).removesuffix('.')}."


def _parsed_type(annotation: str) -> str:
    """Return the type that `HfArgumentParser` parses: in a union one that is not `None`, or else not `str`."""
    members = [member.strip() for member in annotation.split("|")]
    left_out = "None" if "None" in members else "str"
    return members[0] if len(members) == 1 or members[1] == left_out else members[1]


def _metavar(field: _Field) -> str:
    kinds = {"dict": "JSON", "int": "N", "float": "NUMBER"}
    for kind, metavar in kinds.items():
        if re.search(rf"\b{kind}\b", field.annotation):
            return metavar
    return "TEXT"
