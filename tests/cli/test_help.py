"""`--help` says what each option sets and what its default is."""

import pytest
import typer

from tkd_hf.cli import app


COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_what_it_does(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    first_line = COMMANDS[name].help.splitlines()[0]
    assert first_line.partition("`")[0] in " ".join(out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_option_is_a_phrase_that_ends_with_its_default(name):
    options = [parameter for parameter in COMMANDS[name].params if parameter.param_type_name == "option"]
    assert options
    for option in options:
        assert option.help[0].isupper(), option.name
        assert option.help.endswith("."), option.name
        if option.default not in (None, True, False, ""):
            assert option.help.endswith(f"({option.default})."), option.name
