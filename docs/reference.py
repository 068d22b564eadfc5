"""Hook of MkDocs: generate the reference pages, and check links to files of the repository.

Every command gets a page made from its options, and every public name of `tkd_hf` one made from its docstring. The
pages exist only while the site is built.
"""

import dataclasses
import inspect
import logging
import re
from pathlib import Path

import griffe
import typer
from mkdocs.structure.files import File
from transformers import TrainingArguments

import tkd_hf
import tkd_hf.objectives
from tkd_hf.cli import app
from tkd_hf.cli.options import TrainingCommand


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
    commands = typer.main.get_command(app).commands
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
    lines += ["", "## Python", "", "Every name can be imported from `tkd_hf`."]
    for group, names in groups.items():
        lines += ["", f"### {group}", "", "| name | |", "| --- | --- |"]
        for name in names:
            lines.append(f"| [`{name}`](python/{name}.md) | {first_sentence(summary_of(name))} |")
    return "\n".join(lines)


def command_page(name, command):
    """Return the page of one command, made from its options."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    required = [f"{option.opts[0]} {option.name.upper()}" for option in options if option.required]
    usage = " ".join(["tkd-hf", name, *map(argument_name, arguments), *required, "[OPTIONS]"])
    lines = [f"# tkd-hf {name}", "", help_paragraphs(command.help), "", "```bash", usage, "```"]
    if name in tkd_hf.__all__:
        lines += ["", f"In Python: [`tkd_hf.{name}`](../python/{name}.md)."]
    if arguments:
        lines += ["", "## Arguments", "", "| argument | meaning |", "| --- | --- |"]
        lines += [f"| `{argument_name(argument)}` | {cell(argument.help)} |" for argument in arguments]
    for panel in dict.fromkeys(option.rich_help_panel for option in options):
        lines += ["", f"## {panel or 'Options'}", "", "| option | meaning | default |", "| --- | --- | --- |"]
        lines += [option_row(option) for option in options if option.rich_help_panel == panel]
    if isinstance(command, TrainingCommand):
        lines += training_options(inspect.signature(getattr(tkd_hf, name)).parameters["args"].annotation)
    return "\n".join(lines)


def argument_name(argument):
    """Return an argument as the usage line shows it."""
    return argument.metavar or argument.name.upper() + ("..." if argument.nargs == -1 else "")


def option_row(option):
    """Return the row of one option in the table of its panel."""
    flags = ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
    text, default = split_default(option.help)
    return f"| {flags} | {cell(text)} | {'required' if option.required else cell(default)} |"


def split_default(text):
    """Split a help text of the form "What it sets (default)." into what it sets and the default, if it names one."""
    match = re.fullmatch(r"(.+) \((.+)\)\.", text or "")
    return (f"{match[1]}.", match[2]) if match else (text, "")


def training_options(arguments):
    """Return the section about the training arguments that a command accepts as options."""
    page = f"[`{arguments.__name__}`](../python/{arguments.__name__}.md)"
    return [
        *("", "## Training arguments", ""),
        f"{TRAINING_ARGUMENTS} is an option, such as `--gradient-accumulation-steps 4`.",
        *(f"{page} adds these, or changes their defaults:", ""),
        *field_table(arguments),
    ]


def field_table(arguments):
    """Return a table of the training arguments that differ from those of transformers."""
    lines = ["| option | meaning | default |", "| --- | --- | --- |"]
    for field in filter(changed, dataclasses.fields(arguments)):
        text, default = split_default(field.metadata.get("help"))
        lines.append(f"| `--{field.name.replace('_', '-')}` | {cell(text)} | {cell(default)} |")
    return lines


def changed(field):
    """Return whether a field of training arguments is new, or has another default than in transformers."""
    theirs = {field.name: field for field in dataclasses.fields(TrainingArguments)}.get(field.name)
    return field.init and (theirs is None or theirs.default != field.default)


def help_paragraphs(text):
    """Return a help text as Markdown: a paragraph that begins with a backspace is a list or YAML."""
    paragraphs = []
    for paragraph in (text or "").strip().split("\n\n"):
        if paragraph.startswith("\b\n- "):
            paragraphs.append(paragraph[1:].strip())
        elif paragraph.startswith("\b"):
            paragraphs.append(f"```yaml\n{paragraph[1:].strip()}\n```")
        else:
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def python_page(name):
    """Return the page of one public name, which mkdocstrings fills in."""
    value = getattr(tkd_hf, name)
    lines = [f"# {name}", "", "```python", f"from tkd_hf import {name}", "```", ""]
    if callable(value):
        members = MEMBERS.get(name, False)
        lines += signature_block(f"{value.__module__}.{value.__qualname__}", "Signature", members)
        if inspect.isclass(value) and issubclass(value, TrainingArguments):
            lines += ["", f"{TRAINING_ARGUMENTS} is accepted as well."]
    else:  # OBJECTIVES
        lines.append(summary_of(name))
        for key, item in value.items():
            lines += ["", *signature_block(f"{item.__module__}.{item.__qualname__}", key, False)]
    return "\n".join(lines)


def signature_block(identifier, heading, members):
    """Return the lines by which mkdocstrings inserts an object."""
    options = {"heading": heading, "toc_label": heading, "members": members}
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
