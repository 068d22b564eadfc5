"""A test Hub on localhost, client processes that use it, and a run folder to push."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tkd_hf.cards.generate import card
from tkd_hf.records.run_folder import RunFolder, StageRecord

from ..factories import build_teacher, build_tokenizer, student_of
from .server import Hub


CLIENT = Path(__file__).with_name("client.py")
SOURCE = Path(__file__).parents[2] / "src"


@dataclass
class CallResult:
    """The exit code and the output of a call in a client process."""

    code: int
    out: str
    err: str


class Client:
    """A process with its own cache that runs commands and Python code one after another.

    One process serves many calls, because imports take seconds.

    Args:
        hub: the test Hub.
        home: the folder for `HF_HOME`.
        package: whether tkd_hf can be imported.
        variables: further environment variables.
    """

    def __init__(self, hub: Hub, home: Path, package: bool = True, **variables: str):
        dropped = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_TOKEN")
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        environment |= {"PYTHONPATH": str(SOURCE)} if package else {"TKD_HF_HIDDEN": "1"}
        self.output = ""
        self._process = subprocess.Popen(
            [sys.executable, str(CLIENT)],
            env=environment | variables,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments, token: str | None = "hf_writer", fsize: int | None = None) -> CallResult:
        """Run `tkd-hf ARGUMENTS` with a Hub token; files larger than `fsize` bytes cannot be written."""
        return self._send(argv=[str(argument) for argument in arguments], token=token, fsize=fsize)

    def python(self, code: str, token: str | None = "hf_writer", fsize: int | None = None) -> CallResult:
        """Run Python code."""
        return self._send(code=code, token=token, fsize=fsize)

    def _send(self, **request) -> CallResult:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        result = CallResult(**json.loads(self._process.stdout.readline()))
        self.output += result.out + result.err
        return result

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="package")
def hub():
    with Hub() as server:
        yield server
    assert server.failures == []


@pytest.fixture(scope="package")
def client(hub, tmp_path_factory):
    """The process that pushes and verifies. Its output must never contain its token."""
    process = Client(hub, tmp_path_factory.mktemp("home"))
    yield process
    process.close()
    assert "hf_writer" not in process.output


@pytest.fixture
def run_folder(tmp_path):
    """A run folder with a small student and its card."""
    return build_run(tmp_path / "run")


def build_run(folder: Path) -> Path:
    inputs = {"teacher": "/home/ann/teacher", "teacher_revision": "files-1", "task": "sst2"}
    inputs |= {"dataset": "nyu-mll/glue", "config": "sst2", "splits": {"train": "train", "eval": "validation"}}
    run = RunFolder(folder, StageRecord("distill", inputs, {"layers": 2, "objectives": {"logits": 1.0}}))
    run.start()
    student_of(build_teacher()).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").touch()
    run.finish({"accuracy": 0.625})
    card(folder, license="apache-2.0")
    with (folder / "README.md").open("a") as file:
        file.write("\nWords of my own.\n")
    return folder


def change_user_text(folder: Path, text: str) -> None:
    """Change the user's text at the end of the card."""
    path = folder / "README.md"
    path.write_text("\n".join([*path.read_text().splitlines()[:-1], text, ""]))
