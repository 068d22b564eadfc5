"""Hook of MkDocs: generate the reference pages, and check links to files of the repository.

Every command gets a page made from its options, and every public name of `tkd_hf` one made from its docstring. The
pages exist only while the site is built.
"""

import dataclasses
import inspect
import logging
import re
import textwrap
from pathlib import Path

import griffe
from mkdocs.structure.files import File
from transformers import TrainingArguments

import tkd_hf
import tkd_hf.objectives
from tkd_hf.cli import app
from tkd_hf.cli.training_arguments import OWN_GROUPS, training_options
from tkd_hf.core.options import default_text, options_of


log = logging.getLogger("mkdocs.hooks.reference")

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
# class -> the members that its page shows; other classes are described by their docstring alone
MEMBERS = {
    "SoftLabels": ["compute", "load", "save", "attach"],
    "Objective": ["build", "forward", "set_progress"],
}
TRAINING_ARGUMENTS = (
    "Every field of [`transformers.TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer"
    "#transformers.TrainingArguments)"
)


class DoctestFences(griffe.Extension):
    """Colour examples that show a Python prompt as console sessions."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = re.sub(r"```python(?=\n\s*>>>)", "```pycon", obj.docstring.value)


def on_files(files, config):
    """Add the reference pages and their navigation."""
    commands = app.commands
    groups = public_names()
    pages = {"reference/index.md": overview(commands, groups)}
    command_nav = []
    for name, command in commands.items():
        pages[f"reference/commands/{name}.md"] = command_page(name, command)
        command_nav.append({f"tkd-hf {name}": f"reference/commands/{name}.md"})
    python_nav = []
    for group, names in groups.items():
        for name in names:
            pages[f"reference/python/{name}.md"] = python_page(name)
        python_nav.append({group: [{name: f"reference/python/{name}.md"} for name in names]})
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    config.nav.append({"Reference": ["reference/index.md", {"Commands": command_nav}, *python_nav]})
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn relative links that leave docs/ into links to the repository; a missing file is a dead link."""
    if page.file.abs_src_path is None:
        return markdown
    docs = Path(config.docs_dir)
    folder = Path(page.file.abs_src_path).parent

    def absolute(match):
        target = (folder / match[2]).resolve()
        if target.is_relative_to(docs) or not target.is_relative_to(docs.parent):
            return match[0]
        if not target.exists():
            log.warning("Doc file '%s' links to '%s', which is not in the repository.", page.file.src_uri, match[2])
        kind = "tree" if target.is_dir() else "blob"
        return f"{match[1]}{config.repo_url.rstrip('/')}/{kind}/main/{target.relative_to(docs.parent).as_posix()}"

    return LINK.sub(absolute, markdown)


def on_post_page(output, page, config):
    """Leave out the attribute by which the theme would ask GitHub's API for the number of stars."""
    return output.replace(' data-md-component="source"', "")


def public_names():
    """Return the public names by kind, each kind in alphabetical order."""
    groups = {"Functions": [], "Arguments": [], "Models": [], "Training": [], "Errors": []}
    for name in tkd_hf.__all__:
        value = getattr(tkd_hf, name)
        if inspect.isfunction(value):
            group = "Functions"
        elif name.endswith("Arguments"):
            group = "Arguments"
        elif name.startswith("TKD"):
            group = "Models"
        elif inspect.isclass(value) and issubclass(value, Exception):
            group = "Errors"
        else:
            group = "Training"
        groups[group].append(name)
    return groups


def overview(commands, groups):
    """Return the page that lists all commands and public names."""
    lines = ["# Reference", "", "## Commands", "", "| command | |", "| --- | --- |"]
    for name, command in commands.items():
        lines.append(f"| [`tkd-hf {name}`](commands/{name}.md) | {first_sentence(command.help)} |")
    lines += ["", "`tkd-hf --install-completion` lets bash, zsh or fish complete commands and options."]
    lines += ["", "## Python", "", "Every name can be imported from `tkd_hf`."]
    for group, names in groups.items():
        lines += ["", f"### {group}", "", "| name | |", "| --- | --- |"]
        for name in names:
            lines.append(f"| [`{name}`](python/{name}.md) | {first_sentence(summary_of(name))} |")
    return "\n".join(lines)


def command_page(name, command):
    """Return the page of one command, made from its options."""
    options = command.options()
    arguments = [option for option in options if option.positional]
    flags = [option for option in options if not option.positional]
    required = [
        f"{option.flag} {option.metavar}" for option in flags if not option.default and option.path in ("", "args")
    ]
    usage = " ".join(["tkd-hf", name, *map(argument_name, arguments), *required, "[OPTIONS]"])
    lines = [f"# tkd-hf {name}", "", help_paragraphs(command.help), "", "```bash", usage, "```"]
    if name in tkd_hf.__all__:
        lines += ["", f"In Python: [`tkd_hf.{name}`](../python/{name}.md)."]
    if arguments:
        lines += ["", "## Arguments", "", "| argument | meaning |", "| --- | --- |"]
        lines += [f"| `{argument_name(argument)}` | {cell(argument.help)} |" for argument in arguments]
    for group in dict.fromkeys(option.group for option in flags):
        lines += ["", f"## {group or 'Options'}", "", "| option | meaning | default |", "| --- | --- | --- |"]
        lines += [option_row(option) for option in flags if option.group == group]
    return "\n".join(lines)


def argument_name(argument):
    """Return an argument as the usage line shows it."""
    name = argument.name.upper() if argument.metavar in ("TEXT", "PATH") else argument.metavar
    return name + ("..." if argument.multiple else "")


def option_row(option):
    """Return the row of one option in the table of its group."""
    value = "" if option.is_switch else " " + option.metavar.replace("|", "\\|")
    return f"| `{option.flag}{value}` | {cell(option.help)} | {cell(option.default) or 'required'} |"


def option_class_of(value):
    """Return the option class behind a public name: the class itself, or that of a function; `None` without one."""
    if inspect.isfunction(value):
        value = inspect.signature(inspect.unwrap(value)).parameters.get("options", inspect.Parameter).annotation
    is_option_class = inspect.isclass(value) and dataclasses.is_dataclass(value) and options_of(value)
    return value if is_option_class else None


def field_table(kind):
    """Return a table of the fields of an option class: what Python callers give."""
    lines = ["| parameter | option | type | default | meaning |", "| --- | --- | --- | --- | --- |"]
    options = {option.python_name: option for option in options_of(kind) if not option.path}
    for field in dataclasses.fields(kind):
        option = options.get(field.name)
        flag = f"`{argument_name(option) if option.positional else option.flag}`" if option else ""
        if option or field.default is dataclasses.MISSING:
            default = cell(option.default) if option else ""
        else:
            settings = field.metadata.get("option", {})
            default = cell(settings.get("shown_default") or default_of(field.default))
        row = (f"`{field.name}`", flag, type_name(field.type), default or "required", cell(field.metadata["help"]))
        lines.append(f"| {' | '.join(row)} |")
    return lines


def training_table(name):
    """Return a table of those training arguments that are new or have another default than in transformers."""
    lines = ["| parameter | option | default | meaning |", "| --- | --- | --- | --- |"]
    for option in training_options(name):
        if option.group in OWN_GROUPS:
            lines.append(f"| `{option.name}` | `{option.flag}` | {cell(option.default)} | {cell(option.help)} |")
    return lines


def default_of(value):
    """Return the default of a field that is no option of the console."""
    return f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else default_text(value)


def type_name(annotation):
    """Return a type for a table; public classes are links to their pages."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    text = str(annotation) if "|" in str(annotation) or "[" in str(annotation) else text
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)
    name = re.search(r"\w+Arguments", text)
    if name and name[0] in tkd_hf.__all__:
        return text.replace(name[0], f"[`{name[0]}`]({name[0]}.md)").replace("|", "or")
    return f"`{text.replace(' | ', ' or ')}`"


def signature_of(name, value):
    """Return a function's call with its parameters and defaults, one per line."""
    lines = [f"{name}("]
    keyword_only = False
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            lines.append("    *,")
        default = parameter.default
        shown = "" if default is parameter.empty else f"={default_repr(default)}"
        lines.append(f"    {parameter.name}{shown},")
    return "\n".join([*lines, ")"])


def default_repr(value):
    """Return a default as source code."""
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}()"
    return repr(str(value)) if isinstance(value, Path) else repr(value)


def help_paragraphs(text):
    """Return a help text as Markdown: an indented paragraph is YAML."""
    paragraphs = (text or "").strip().split("\n\n")
    return "\n\n".join(
        f"```yaml\n{textwrap.dedent(paragraph).strip()}\n```" if paragraph.startswith("    ") else paragraph
        for paragraph in paragraphs
    )


def python_page(name):
    """Return the page of one public name, which mkdocstrings fills in."""
    value = getattr(tkd_hf, name)
    lines = [f"# {name}", "", "```python", f"from tkd_hf import {name}", "```", ""]
    if kind := option_class_of(value):
        heading = {"heading": "Description", "toc_label": "Description", "members": False, "show_signature": False}
        lines += ["## Signature", "", "```python", signature_of(name, value), "```", ""]
        lines += [*object_block(f"{value.__module__}.{value.__qualname__}", heading), "", "## Parameters", ""]
        lines += field_table(kind)
    elif callable(value):
        members = MEMBERS.get(name, False)
        lines += signature_block(f"{value.__module__}.{value.__qualname__}", "Signature", members)
        if inspect.isclass(value) and issubclass(value, TrainingArguments):
            lines += ["", "## Parameters", "", *training_table(name), "", f"{TRAINING_ARGUMENTS} is accepted as well."]
    else:  # OBJECTIVES
        lines.append(summary_of(name))
        for key, item in value.items():
            lines += ["", *signature_block(f"{item.__module__}.{item.__qualname__}", key, False)]
    return "\n".join(lines)


def signature_block(identifier, heading, members):
    """Return the lines by which mkdocstrings inserts an object with its signature."""
    return object_block(identifier, {"heading": heading, "toc_label": heading, "members": members})


def object_block(identifier, options):
    """Return the lines by which mkdocstrings inserts an object."""
    return [f"::: {identifier}", "    options:", *(f"      {key}: {value}" for key, value in options.items())]


def cell(text):
    """Return a text that does not break a cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def summary_of(name):
    """Return the docstring of a public name."""
    value = getattr(tkd_hf, name)
    return inspect.getdoc(value if callable(value) else tkd_hf.objectives)


def first_sentence(text):
    """Return the first sentence of a help text or docstring, fit for a table."""
    return cell(re.split(r"(?<=\.)\s", (text or "").split("\n\n")[0], maxsplit=1)[0])
