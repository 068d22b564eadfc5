"""Kills a recipe in each of its stages, again and again, and compares what it ends with.

    python examples/soak.py --kills 30

The recipe labels, distils with learned projections, prunes, exports and reports, on models and data made in code. The
process that works through it gets a SIGKILL at a random moment of each stage, and the same command is started again,
until it ends by itself; then the students, weights and all, must be those of a run that nobody killed, bit for bit.
Writes examples/results/soak.{json,md}.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml
from safetensors.torch import load_file


sys.path.insert(0, str(Path(__file__).parent / "paper"))

import tiny
from tkd_hf.cli.output import announce
from tkd_hf.hardware import describe_software


TRAINING = {
    "max_steps": 60,
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 5,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
}
STAGES = [
    {"finetune": TRAINING},
    {"label": {}},
    {"distill": {**TRAINING, "layers": 1, "heads": 1, "objectives": {"logits": 0.9, "hard": 0.1, "hidden": 1.0}}},
    {"distill": TRAINING},
    {"prune": {**TRAINING, "target_params": 0.9}},
    {"quantize": {"backend": "onnx"}},
    {"evaluate": {}},
    {"report": {"batch_sizes": "1", "lengths": "16", "rounds": 2, "models": ["{folder}/distill-2"]}},
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results-dir", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()

    draw = random.Random(options.seed)
    with TemporaryDirectory() as work:
        recipe, whole = prepare(Path(work)), Path(work, "whole")
        begun = run(recipe, whole)
        seconds = [end - begin for begin, end in pairwise(begun)]
        runs, left = [], options.kills
        while left:
            folder = Path(work, f"killed-{len(runs)}")
            stages = sorted(draw.sample(range(len(STAGES)), min(left, len(STAGES))))
            kills = killed_run(recipe, folder, {stage: draw.uniform(0, seconds[stage]) for stage in stages})
            runs.append({"kills": kills, "different": different(whole, folder)})
            left -= len(kills)
            announce(f"run {len(runs)}: {len(kills)} kills, differs in {runs[-1]['different'] or 'nothing'}")
    write(options, runs)
    sys.exit(1 if any(one["different"] for one in runs) else 0)


def prepare(work: Path) -> str:
    """What the recipe says; `{folder}` stands for where it runs."""
    encoder, data = tiny.make_encoder(work / "encoder"), tiny.make_data(work / "data")
    return yaml.safe_dump({"model": encoder, "data": {"task": "sst2", "data_dir": data}, "stages": STAGES})


def run(recipe: str, folder: Path, kill: tuple[int, float] | None = None) -> list[float]:
    """The command, in a process of its own and with a cache of its own; when each stage began, and the last ended.

    Args:
        kill: the stage in which it is killed, counted from 0, and how many seconds after that stage began.
    """
    path, log = folder.with_suffix(".yaml"), folder.with_suffix(".log")
    path.write_text(recipe.replace("{folder}", str(folder)), encoding="utf-8")
    command = [sys.executable, "-m", "tkd_hf", "run", str(path)]
    environment = {**os.environ, "HF_HOME": str(folder) + "-home", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    begun = []
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--output-dir", str(folder)], env=environment, stdout=subprocess.DEVNULL, stderr=errors
        ) as process,
    ):
        while process.poll() is None:
            time.sleep(0.02)
            said = len(re.findall(r"stage \d+ of \d+:", log.read_text(errors="replace")))
            begun += [time.monotonic()] * (said - len(begun))
            if kill and len(begun) > kill[0] and time.monotonic() - begun[kill[0]] >= kill[1]:
                process.kill()
                return begun
    if process.returncode:
        raise SystemExit(f"the run failed: {log.read_text(errors='replace')[-2000:]}")
    return [*begun, time.monotonic()]


def killed_run(recipe: str, folder: Path, moments: dict[int, float]) -> list[str]:
    """Runs the recipe until it is done, killed once in each of these stages; and where each kill met it."""
    kills = []
    for kill in moments.items():
        begun = run(recipe, folder, kill)
        if len(begun) <= len(STAGES):
            kills.append(state(folder, len(begun) - 1))
    run(recipe, folder)
    return kills


def state(folder: Path, stage: int) -> str:
    """What was under way: the stage, and its last checkpoint."""
    names = [next(iter(one)) for one in STAGES]
    count = names[: stage + 1].count(names[stage])
    name = names[stage] if count == 1 else f"{names[stage]}-{count}"
    checkpoints = [int(path.name.rpartition("-")[2]) for path in (folder / name).glob("checkpoint-*")]
    return f"{name}, checkpoint {max(checkpoints)}" if checkpoints else name


def different(whole: Path, killed: Path) -> list[str]:
    """The stages whose models and exports are not the same, bit for bit, and what a report lacks."""
    found = []
    for path in sorted(whole.glob("*/model.safetensors")):
        one, other = load_file(path), load_file(killed / path.parent.name / path.name)
        if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
            found.append(path.parent.name)
    exports = sorted(path.relative_to(whole) for path in whole.glob("**/*.onnx"))
    found += [str(path) for path in exports if (whole / path).read_bytes() != (killed / path).read_bytes()]
    return found + [name for name in ("report.md", "pictures/pareto.png") if not (killed / "report" / name).exists()]


def write(options: argparse.Namespace, runs: list[dict]) -> None:
    kills = [kill for one in runs for kill in one["kills"]]
    content = {
        "command": f"python examples/soak.py --kills {options.kills} --seed {options.seed}",
        "kills": len(kills),
        "runs": len(runs),
        "mismatches": sum(bool(one["different"]) for one in runs),
        "killed": kills,
        "software": describe_software(),
    }
    options.results_dir.mkdir(parents=True, exist_ok=True)
    (options.results_dir / "soak.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# Killed at random moments",
        "",
        f"`{content['command']}`",
        "",
        f"A recipe of {len(STAGES)} stages (fine-tune, label, distil twice, prune, export to ONNX, evaluate, report) "
        f"was killed (SIGKILL) {len(kills)} times in {len(runs)} runs, each repeated by the same command until it was "
        f"done. Runs that ended with other weights than one that nobody killed: **{content['mismatches']}**.",
        "",
        "| what was under way | kills |",
        "| --- | ---: |",
        *(f"| {what} | {count} |" for what, count in Counter(kills).items()),
        "",
    ]
    (options.results_dir / "soak.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
