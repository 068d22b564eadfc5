"""The commands as a user types them."""

import pytest

from tkd_hf.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `tkd-hf WORDS`; gives the exit code, standard output and standard error."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["tkd-hf", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code or 0, *capsys.readouterr()

    return call
