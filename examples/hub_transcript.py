r"""To the Hub and back, as a transcript: push, load in a fresh process and cache, verify, alter a figure, verify again.

python examples/hub_transcript.py RUN --task sst2 --data-dir DATA   # writes examples/results/hub_transcript.md

The Hub is the strict one of the tests, on loopback (tests/hub/server.py); the client is huggingface_hub as it is.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tkd_hf.hub.folder import SOURCE_FILES


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.hub.server import Hub  # noqa: E402


RESULT = Path(__file__).parent / "results" / "hub_transcript.md"
REPO = "org/tkd-nlp-sst2"
LOAD = f"""\
import sys
from transformers import AutoModelForSequenceClassification, pipeline
model = AutoModelForSequenceClassification.from_pretrained("{REPO}", trust_remote_code=True)
classify = pipeline("text-classification", "{REPO}", trust_remote_code=True)
print(type(model).__module__.split(".")[0], type(model).__name__, "tkd_hf" in sys.modules)
print(classify(["a gripping, moving story", "an unwatchable mess"]))
"""
ALTER = f"""\
import re
from huggingface_hub import HfApi, hf_hub_download
card = open(hf_hub_download("{REPO}", "README.md")).read()
altered = re.sub(r"(type: accuracy\\n(?: .*\\n)*? +value: )[0-9.]+", r"\\g<1>0.9304", card, count=1)
assert altered != card
HfApi().upload_file(repo_id="{REPO}", path_in_repo="README.md", path_or_fileobj=altered.encode())
"""


class Transcript:
    """Runs commands in a folder as somebody at a shell would, and writes down what they say.

    Args:
        hub: the server.
        folder: where.
    """

    def __init__(self, hub: Hub, folder: Path):
        self.hub, self.folder, self.lines = hub, folder, []

    def command(self, words: str, home: str = "home", expected: int = 0):
        """`tkd-hf WORDS`."""
        tkd_hf = "import sys; sys.argv[0] = 'tkd-hf'; from tkd_hf.cli import main; main()"
        self._run(f"$ tkd-hf {words}", ["-c", tkd_hf, *words.split()], home, expected, package=True)

    def python(self, code: str, home: str, expected: int = 0):
        """Python in a process that cannot import tkd_hf."""
        self._run(f"$ python - <<'EOF'\n{code}EOF", ["-c", code], home, expected, package=False)

    def say(self, text: str):
        """What the next commands are for."""
        self.lines += ["", text, ""]

    def _run(self, shown: str, words: list[str], home: str, expected: int, package: bool):
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")
        }
        environment |= {"HF_HOME": str(self.folder / home), "HF_ENDPOINT": self.hub.url, "HF_TOKEN": "hf_writer"}
        environment |= {
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        environment |= {"PYTHONPATH": str(ROOT / "src")} if package else {}
        done = subprocess.run(
            [sys.executable, *words],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = [
            line.rstrip()
            for line in done.stdout.splitlines()
            if line.strip() and not re.search(r"\d+%\||\[\d\d:\d\d", line)
        ]
        text = "\n".join(said).replace(self.hub.url, "http://127.0.0.1:PORT").replace(str(self.folder), ".")
        assert done.returncode == expected, text
        assert "hf_writer" not in text
        self.lines += ["```console", shown, text, f"$ echo $?\n{done.returncode}", "```"]


def renew_source(folder: Path) -> None:
    """A run of an earlier version carries that version's source, which `verify` would not run without being told."""
    for name in SOURCE_FILES:
        shutil.copyfile(ROOT / "src" / "tkd_hf" / name, folder / name)


def main(run: Path, task: str, data_dir: Path):
    with Hub() as hub, tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        shutil.copytree(run, place / "sst2-3l", ignore=shutil.ignore_patterns("checkpoint-*"))
        renew_source(place / "sst2-3l")
        (place / "data").symlink_to(data_dir.resolve())
        data = f"--task {task} --data-dir data"
        transcript = Transcript(hub, place)
        transcript.say("## Push\n\nThe card, the push, and the same content once more.")
        transcript.command(f"card sst2-3l --repo-id {REPO} --license apache-2.0 --language en")
        transcript.command(f"push sst2-3l --repo-id {REPO} --tag v1")
        transcript.command(f"push sst2-3l --repo-id {REPO} --tag v1")
        transcript.say("## Load\n\nIn a fresh process and cache, where tkd-hf is not installed.")
        transcript.python(LOAD, "fresh")
        transcript.say("## Verify")
        transcript.command(f"verify {REPO}@v1 {data}")
        transcript.say("## A figure is altered\n\nSomebody writes another accuracy into the card's metadata.")
        transcript.python(ALTER, "other")
        transcript.command(f"verify {REPO} {data}", expected=1)
        assert hub.failures == []
    head = [
        "# To the Hub and back",
        "",
        f"huggingface_hub {version('huggingface_hub')}, transformers {version('transformers')}, against the strict Hub "
        f"of the tests on loopback; every request was in order. `python examples/hub_transcript.py` writes this page.",
    ]
    RESULT.write_text("\n".join([*head, *transcript.lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path, required=True)
    main(**vars(parser.parse_args()))
