"""How fast students are trained: ours, a plain Trainer with a live teacher, TextBrewer and NVIDIA Model-Optimizer.

    pip install -r examples/benchmarks/requirements.txt      # the peers; without them the rest is measured
    python examples/benchmarks/training.py --teacher TEACHER --data-dir DATA

TEACHER is the folder of a bert-like classifier of SST-2 (`examples/sst2.py` trains one), DATA holds `sst2/` as for
`tkd-hf distill`; without it SST-2 comes from the Hub. Every contender trains the same student of three layers once over
the same examples, each in a process of its own, in turns. Writes training-<precision>.json and .md into the results
folder. Resumable: a finished run is taken as it is. `--quick` is a rehearsal of a minute.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from datasets import load_from_disk
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from one_run import LABELLERS, TRAINERS, Spec
from peers import PEERS
from table import markdown, summary
from tkd_hf import SoftLabels, student_from_teacher
from tkd_hf.conversion import to_bert
from tkd_hf.data.features import tokenize
from tkd_hf.data.loading import DataArguments, load_splits
from tkd_hf.files import atomic_write
from tkd_hf.hardware import describe_hardware, describe_software, has_fast_bf16


BATCH_SIZE = 64
LABELLED = 8  # times as many texts as are trained on: labelling them takes about as long


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--steps", type=int, default=100, help="of the optimizer, in each run")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    native = ["fp32", "bf16"] if has_fast_bf16() else ["fp32"]
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=native, help="native by default")
    parser.add_argument("--contenders", nargs="+", choices=[*TRAINERS, *LABELLERS], help="all by default")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    parser.add_argument("--quick", action="store_true", help="two steps of eight examples, one round, fp32")
    options = parser.parse_args(words)
    if options.quick:
        options.steps, options.batch_size, options.rounds, options.precisions = 2, 8, 1, ["fp32"]
    options.contenders = options.contenders or [*TRAINERS, *LABELLERS]
    return options


def main(words: list[str] | None = None) -> int:
    options = parse(words)
    absent = [name for name in options.contenders if name in PEERS and not find_spec(PEERS[name][0])]
    for name in absent:
        say(f"{name} is not installed and is passed over: pip install -r {Path(__file__).parent}/requirements.txt")
    contenders = [name for name in options.contenders if name not in absent]
    work = prepare(options)
    runs = []
    for seed in range(options.rounds):
        for precision in options.precisions:
            for place in range(len(contenders)):
                contender = contenders[(place + seed) % len(contenders)]  # nobody is always after the same one
                spec = Spec(contender, str(Path(options.teacher)), str(work), options.batch_size, precision, seed)
                runs.append(run(spec, work / "runs"))
                write(options, runs, absent)
    return 0


def prepare(options: argparse.Namespace) -> Path:
    """The folder with what all contenders share: examples, students and soft labels."""
    sizes = [options.teacher, options.steps, options.batch_size, options.layers]
    work = options.work_dir / hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:12]
    if (work / "labels.safetensors").exists():  # it is written last
        return work
    say(f"preparing {work}")
    work.mkdir(parents=True, exist_ok=True)
    data = DataArguments(task="sst2", data_dir=options.data_dir)
    train, evaluation, _ = load_splits(data)
    wanted = options.steps * options.batch_size
    if len(train) < wanted:  # as in a rehearsal on a handful
        train = train.select([place % len(train) for place in range(wanted)])
    most = min(wanted * LABELLED, len(train))
    train = train.shuffle(seed=0)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    for name, rows in (("train", train.select(range(wanted))), ("eval", evaluation)):
        tokenize(rows, tokenizer, data.max_length).rename_column("label", "labels").save_to_disk(work / name)
    tokenize(train.select(range(most)), tokenizer, data.max_length).remove_columns("label").save_to_disk(work / "texts")
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher)
    student = student_from_teacher(teacher, num_hidden_layers=options.layers)
    student.save_pretrained(work / "student")
    to_bert(student).save_pretrained(work / "student-bert")
    rows = load_from_disk(work / "train").remove_columns("labels")
    SoftLabels.compute(teacher, tokenizer, rows, bf16=False).save(work / "labels.safetensors")
    return work


def run(spec: Spec, folder: Path) -> dict:
    """The record of a run, made if it is not there."""
    name = spec.contender.replace(",", "").replace(" ", "-")
    path = folder / f"{name}-{spec.precision}-{spec.seed}.json"
    if not path.exists():
        say(f"{spec.contender}, {spec.precision}, round {spec.seed + 1}")
        words = [sys.executable, str(Path(__file__).with_name("one_run.py")), json.dumps(asdict(spec))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(f"{spec.contender} failed:\n{done.stderr[-3000:]}")
        with atomic_write(path) as file:
            file.write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def size_of(options: argparse.Namespace) -> str:
    """The flags that say how much was trained, for a command that does it again."""
    batch_size = "" if options.batch_size == BATCH_SIZE else f"--batch-size {options.batch_size} "
    return f"{batch_size}--steps {options.steps}"


def write(options: argparse.Namespace, runs: list[dict], absent: list[str]) -> None:
    some = options.contenders != [*TRAINERS, *LABELLERS]
    size = f" {size_of(options)} --rounds {options.rounds} --precisions {shlex.join(options.precisions)}"
    content = {
        "command": "python examples/benchmarks/training.py --teacher TEACHER --data-dir DATA"
        + (" --quick" if options.quick else size)
        + (f" --contenders {shlex.join(options.contenders)}" if some else ""),
        "steps": options.steps,
        "batch_size": options.batch_size,
        "layers": options.layers,
        "rounds": options.rounds,
        "absent": absent,
        "hardware": describe_hardware(),
        "software": describe_software(),
    }
    options.results_dir.mkdir(parents=True, exist_ok=True)
    for precision in dict.fromkeys(one["precision"] for one in runs):
        found = [one for one in runs if one["precision"] == precision]
        kept = [{name: value for name, value in one.items() if name not in ("teacher", "work")} for one in found]
        table = content | {"peak": max(one["peak"] for one in found), "rows": summary(found), "runs": kept}
        stem = options.results_dir / f"training-{precision}"
        stem.with_suffix(".json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        stem.with_suffix(".md").write_text(markdown(table), encoding="utf-8")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
