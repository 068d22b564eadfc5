"""The command line: parse options, call the functions of `tkd_hf.commands`, and print their results."""

import logging
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from ..core.errors import CheckFailed, InputError, StopRequested, TrainingStopped, storage_error_message
from ..core.options import options_of
from ..core.processes import destroy_process_group, stopping_at_once
from .command import Command, help_of
from .output import prepare_streams
from .parser import OptionCommand, program
from .recipe import command_values
from .registry import COMMANDS
from .run import RunOptions, run


def _command(command: Command) -> OptionCommand:
    def call(values: dict[str, Any]) -> None:
        recipe = values.get("config")
        values = command_values(command, Path(recipe), values) if recipe else values
        missing = command.missing(values)
        if missing:
            names = " and ".join(option.label for option in missing)
            raise InputError(f"missing {names}; see tkd-hf {command.name} --help")
        command.run(values)

    return OptionCommand(command.name, command.help, lambda: command.all_options, call)


app = program(
    "Distil a fine-tuned text model, the teacher, into a small and fast student.",
    [
        *map(_command, COMMANDS.values()),
        OptionCommand("run", help_of(RunOptions), lambda: options_of(RunOptions), run),
    ],
)


def main() -> None:
    """Run a command.

    Exit codes: 0 for success; 1 if the model drops too much or its card is wrong; 2 for bad input or a disk error; 130
    after Ctrl-C (SIGINT), 129 after SIGHUP and 143 after SIGTERM.
    """
    prepare_streams()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before it is imported
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("tkd_hf").setLevel(logging.INFO)
    # On processors with AVX512-BF16, bitsandbytes 0.50 warns on import that a 4-bit kernel is missing, and the Trainer
    # always imports it: https://github.com/bitsandbytes-foundation/bitsandbytes/issues/2064
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    try:
        with stopping_at_once():
            code = app.main(prog_name="tkd-hf", standalone_mode=False)
        destroy_process_group()
        sys.exit(code)
    except click.UsageError as error:
        _exit_with_message(error.format_message(), error.exit_code)
    except (InputError, CheckFailed) as error:
        _exit_with_message(str(error), error.exit_code)
    except TrainingStopped as stop:
        _exit_with_message(f"{stop}; go on with: {next_command(sys.argv[1:], resumable=True)}", stop.exit_code)
    except StopRequested as stop:
        command = next_command(sys.argv[1:], stop.resumable)
        _exit_with_message(f"{stop}; what was stored is kept; go on with: {command}", stop.exit_code)
    except Exception as error:
        if (trouble := storage_error_message(error)) is None:
            raise
        _exit_with_message(trouble, 2)


def next_command(words: list[str], resumable: bool) -> str:
    """Return the command that goes on after a stop, as it is typed.

    Args:
        words: the words of the command that was stopped, after `tkd-hf`.
        resumable: whether the command had stored something to go on from; otherwise it is repeated.

    Example:

    ```python
    >>> from tkd_hf.cli import next_command
    >>> next_command(["distill", "my teacher", "--overwrite"], resumable=True)
    "tkd-hf distill 'my teacher' --resume"

    ```
    """
    if resumable:
        words = [word for word in words if word != "--overwrite"]
        words += ["--resume"] if words[:1] and words[0] in _with_resume() and "--resume" not in words else []
    return shlex.join(["tkd-hf", *words])


def _with_resume() -> list[str]:
    """Return the commands that can resume."""
    return [name for name, command in COMMANDS.items() if "resume" in command.own_names]


def _exit_with_message(message: str, code: int) -> NoReturn:
    with suppress(OSError):  # after SIGHUP the terminal is gone
        print(f"tkd-hf: {message}", file=sys.stderr)
    sys.exit(code)
