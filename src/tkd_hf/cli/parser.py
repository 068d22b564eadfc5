"""Commands made from option classes: their flags, their help, and their values by option name."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import get_completion_class

import tkd_hf

from ..core.errors import InputError, did_you_mean
from ..core.options import SWITCH_VALUES, Option


PROGRAM = "tkd-hf"
COMPLETION_VARIABLE = "_TKD_HF_COMPLETE"  # read by click, whose scripts set it
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# Where a shell reads commands at its start, and how it reads a file of completions.
_START_FILES = {"bash": ("~/.bashrc", "source {}"), "zsh": ("~/.zshrc", "source {}")}
_FISH_FOLDER = "~/.config/fish/completions"


class OptionCommand(click.Command):
    """A command whose flags come from options.

    Args:
        name: the command.
        help: what it does: a first sentence, and paragraphs. Lists and indented blocks stay as they are.
        options: a function that returns its options; it is called only when the command is parsed or described.
        run: called with the values that were given, by name of the option.
    """

    def __init__(
        self, name: str, help: str, options: Callable[[], Sequence[Option]], run: Callable[[dict[str, Any]], object]
    ):
        self.options, self._run = options, run
        super().__init__(name, help=help, callback=self._call, context_settings=SETTINGS)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return click's parameters; every value is one word, as `normalise` leaves it."""
        return [*map(_parameter, self.options()), *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words after the command's name."""
        try:
            return super().parse_args(ctx, normalise(args, self.options()))
        except click.NoSuchOption as error:
            _refuse_option(self.name, error.option_name, self.options())

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage: arguments, required options, and the rest."""
        arguments = [_argument_name(option) for option in self.options() if option.positional]
        required = [
            f"{option.flag} {option.metavar}"
            for option in self.options()
            if not option.default and not option.positional and option.path in ("", "args")
        ]
        formatter.write_usage(ctx.command_path, " ".join([*arguments, *required, "[OPTIONS]"]))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help paragraph by paragraph."""
        for paragraph in (self.help or "").split("\n\n"):
            formatter.write_paragraph()
            with formatter.indentation():
                if paragraph.startswith(("- ", "    ")):
                    formatter.write("\n".join(f"  {line}".rstrip() for line in paragraph.splitlines()) + "\n")
                else:
                    formatter.write_text(" ".join(paragraph.split()))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group, each with its default."""
        options = self.options()
        arguments = [(_argument_name(option), option.help) for option in options if option.positional]
        if arguments:
            with formatter.section(click.style("Arguments", bold=True)):
                formatter.write_dl(arguments)
        flags = [option for option in options if not option.positional]
        for group in dict.fromkeys(["", *(option.group for option in flags)]):
            rows = [(_flag_with_value(option), option.description) for option in flags if option.group == group]
            if group == "":
                rows.append(("-h, --help", "Show this message and exit."))
            with formatter.section(click.style(group or "Options", bold=True)):
                formatter.write_dl(rows)

    def _call(self, **values: Any) -> None:
        self._run({name: value for name, value in values.items() if value not in (None, ())})


class OptionGroup(click.Group):
    """The program: commands by name, in the order of their declaration."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names; suggest one if there is none."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            hint = did_you_mean(args[0], self.commands) or f"; the commands are {', '.join(self.commands)}"
            raise InputError(f"unknown command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words before the command's name."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            _refuse_option("", error.option_name, [Option(param.name or "", "", "") for param in self.params])


def program(help: str, commands: Iterable[click.Command]) -> OptionGroup:
    """Return the program, with `--version` and the completion of shells."""
    group = OptionGroup(
        PROGRAM, help=help, commands={command.name or "": command for command in commands}, context_settings=SETTINGS
    )
    group.params += [
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
                     help="Show the version and exit."),
        click.Option(["--install-completion"], is_flag=True, is_eager=True, expose_value=False,
                     callback=_install_completion, help="Install completion for the current shell and exit."),
        click.Option(["--show-completion"], is_flag=True, is_eager=True, expose_value=False,
                     callback=_show_completion, help="Show the completion script of the current shell and exit."),
    ]  # fmt: skip
    return group


def normalise(words: Sequence[str], options: Sequence[Option]) -> list[str]:
    """Write each flag and its value as one word, so that every option takes exactly one value.

    A switch takes `true` or `false` as the next word, or none. An option for a list of training arguments takes all
    words up to the next flag, as it does in other programs with these arguments.

    Raises:
        InputError: if an option of the data that takes one value is given twice with different values.

    Example:

    ```python
    >>> from tkd_hf.cli.parser import normalise
    >>> from tkd_hf.core.options import Option
    >>> options = [Option("live", "", "off", bool), Option("max_length", "", "128", int)]
    >>> normalise(["--live", "org/teacher", "--max_length", "-1"], options)
    ['--live=true', 'org/teacher', '--max-length=-1']

    ```
    """
    by_flag = {f"--{option.name.replace('_', '-')}": option for option in options}
    negated = {option.off: option for option in options if option.off and option.off not in by_flag}
    pending = list(words)
    result: list[str] = []
    of_data: dict[str, str] = {}
    while pending:
        word = pending.pop(0)
        if word == "--":
            return [*result, word, *pending]
        flag, has_value, value = word.partition("=")
        flag = f"--{flag[2:].replace('_', '-')}"
        option = by_flag.get(flag) or negated.get(flag)
        if not word.startswith("--") or option is None:
            result.append(word)
            continue
        values = [value] if has_value else _next_values(option, pending)
        if option.path in ("data", "corpus") and not option.multiple:
            previous, value = of_data.setdefault(flag, values[0]), values[0]
            if value != previous:
                raise InputError(f"{flag} is given twice, as {previous!r} and {value!r}, but it takes one value")
        if flag in negated:
            flag = f"--{option.name.replace('_', '-')}"
            values = ["false" if SWITCH_VALUES.get(value.lower(), True) else "true" for value in values]
        result += [f"{flag}={value}" for value in values] or [flag]
    return result


def _next_values(option: Option, pending: list[str]) -> list[str]:
    """Take the value of an option, or the values of a list, from the front of the words."""
    if option.is_switch:
        is_value = bool(pending) and pending[0].lower() in SWITCH_VALUES
        return [pending.pop(0)] if is_value else ["true"]
    if option.value_is_optional and (not pending or pending[0].startswith("--")):
        return [""]
    count = min(1, len(pending))
    if option.path == "args" and option.multiple:
        count = next((index for index, word in enumerate(pending) if word.startswith("--")), len(pending))
    return [pending.pop(0) for _ in range(count)]


def _parameter(option: Option) -> click.Parameter:
    kind = click.Path() if option.kind is Path else click.STRING

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [choice for choice in option.choices if choice.startswith(incomplete)]

    completion = complete if option.choices else None
    if option.positional:
        return click.Argument(
            [option.name],
            type=kind,
            required=False,
            nargs=-1 if option.multiple else 1,
            default=None,
            shell_complete=completion,
        )
    flag = f"--{option.name.replace('_', '-')}"
    return click.Option(
        [flag, option.name], type=kind, multiple=option.multiple, help=option.help, shell_complete=completion
    )


def _argument_name(option: Option) -> str:
    name = option.metavar if option.metavar not in ("TEXT", "PATH") else option.name.upper()
    return f"{name}..." if option.multiple else name


def _flag_with_value(option: Option) -> str:
    return option.flag if option.is_switch else f"{option.flag} {option.metavar}"


def _refuse_option(command: str | None, flag: str, options: Sequence[Option]) -> NoReturn:
    flags = [*(option.flag for option in options), "--help"]
    hint = did_you_mean(flag, flags) or f"; {' '.join(filter(None, [PROGRAM, command]))} --help lists the options"
    raise InputError(f"unknown option {flag!r}{hint}")


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"{PROGRAM} {tkd_hf.__version__}")
        ctx.exit()


def _show_completion(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(_completion_script(ctx.command, _shell()))
        ctx.exit()


def _install_completion(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    shell = _shell()
    folder = Path(_FISH_FOLDER if shell == "fish" else "~/.local/share/tkd-hf").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / ("tkd-hf.fish" if shell == "fish" else f"completion.{shell}")
    script.write_text(_completion_script(ctx.command, shell), encoding="utf-8")
    if shell in _START_FILES:
        start_file, line = Path(_START_FILES[shell][0]).expanduser(), _START_FILES[shell][1].format(script)
        before = start_file.read_text(encoding="utf-8") if start_file.exists() else ""
        if line not in before.splitlines():
            start_file.write_text(f"{before.rstrip()}\n{line}\n".lstrip(), encoding="utf-8")
    click.echo(f"{shell} completes {PROGRAM} from its next start; the script is {script}")
    ctx.exit()


def _shell() -> str:
    """Return the name of the user's shell."""
    name = Path(os.environ.get("SHELL", "")).name
    if name not in ("bash", "zsh", "fish"):
        raise InputError(f"completion works in bash, zsh and fish, but SHELL is {name or 'not set'!r}; set SHELL")
    return name


def _completion_script(program: click.Command, shell: str) -> str:
    completion = get_completion_class(shell)
    assert completion is not None  # `_shell` returns only shells that click knows
    return completion(program, {}, PROGRAM, COMPLETION_VARIABLE).source()
