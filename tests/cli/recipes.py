"""Recipes as tests write them, and commands that are killed."""

import os
import signal
import subprocess
import sys

import yaml

from ..conftest import FLOAT32


KILLED = f"""
{FLOAT32}
import os, signal, sys
from tkd_hf import DistillationTrainer
from tkd_hf.cli import main

save, checkpoint = DistillationTrainer._save_rng_state, sys.argv.pop(1)

def kill(self, folder):
    save(self, folder)
    if folder.endswith(checkpoint):
        os.kill(os.getpid(), signal.SIGKILL)

DistillationTrainer._save_rng_state = kill
main()
"""


def write_recipe(folder, stages, **content):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**content, "stages": stages}))
    return path


def run_until_killed(words, checkpoint, home):
    """Runs `tkd-hf WORDS` in a process that is killed while it writes that checkpoint of a distillation."""
    command = [sys.executable, "-c", KILLED, checkpoint, *words]
    killed = subprocess.run(command, env={**os.environ, "HF_HOME": str(home)}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
