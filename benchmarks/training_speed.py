"""Training speed: our trainer, a plain Trainer with a live teacher, TextBrewer and NVIDIA Model-Optimizer.

    pip install textbrewer==0.2.1.post1 nvidia-modelopt==0.47.0      # contenders that are not installed are skipped
    python benchmarks/training_speed.py --teacher TEACHER --data-dir DATA
    python benchmarks/training_speed.py --quick

TEACHER is the folder of a bert-like classifier of SST-2. Every contender trains the same student of three layers once
over the same examples, in a process of its own, in turns. A finished run is reused, so that an interrupted command
continues. Ratios compare runs of the same round with the fastest of the other libraries.
"""

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from clock import PHASES, Clock, matmul_peak, useful_flops
from common import environment, parser_of, read_options, save_rows, say, tiny_model, tiny_task
from contenders import CONTENDERS, OTHERS, PEERS, Setup
from tkd_hf import DataArguments, SoftLabels, student_from_teacher, tokenize
from tkd_hf.core.hardware import has_fast_bf16
from tkd_hf.data.loading import load_splits
from tkd_hf.inference.memory import peak_megabytes
from tkd_hf.inference.prediction import predict_logits
from tkd_hf.inference.runners import PyTorchRunner
from tkd_hf.models.conversion import to_bert


CHILD = "--run"  # first argument of the processes that train one contender


def training_parser(description: str):
    """Return the parser of the benchmarks that train on SST-2."""
    parser = parser_of(description, "runs/training-speed")
    parser.add_argument("--teacher", help="folder of a classifier of SST-2")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of each run (100)")
    parser.add_argument("--batch-size", type=int, default=64, help="examples per step (64)")
    parser.add_argument("--layers", type=int, default=3, help="layers of the student (3)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="precision (bf16 if the machine computes in it)")
    return parser


def parse(parser, arguments: list[str] | None):
    """Read the options; in the quick size, write a tiny teacher and task."""
    options = read_options(parser, arguments)
    options.precision = options.precision or ("bf16" if has_fast_bf16() and not options.quick else "fp32")
    if options.quick:
        options.steps, options.batch_size, options.layers = 2, 8, 1
        options.teacher = tiny_model(options.work_dir / "teacher", layers=2)
        options.data_dir = tiny_task(options.work_dir / "data", "sst2")
    elif not options.teacher:
        parser.error("name the folder of a teacher with --teacher, or try --quick")
    return options


def main(arguments: list[str] | None = None) -> None:
    parser = training_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs (3)")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help="who (all)")
    options = parse(parser, arguments)

    missing = [name for name in options.contenders if name in PEERS and not find_spec(PEERS[name][0])]
    for name in missing:
        say(f"skipping {name}: it is not installed (see benchmarks/contenders.py)")
    contenders = [name for name in options.contenders if name not in missing]
    work, runs = prepare(options), []
    for seed in range(options.rounds):
        for index in range(len(contenders)):
            contender = contenders[(index + seed) % len(contenders)]  # rotate, so that nobody always follows the same
            runs.append(run_once(options, work, contender, seed))
    save_rows(
        options.results,
        [row_of(contender, runs, options) for contender in contenders],
        key=("machine", "precision", "batch_size", "contender"),
        section="training",
    )


def prepare(options) -> Path:
    """Write what all contenders share: tokenized examples, the student as TKD and as BERT, and soft labels."""
    sizes = [options.teacher, options.steps, options.batch_size, options.layers]
    work = options.work_dir / hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:12]
    if (work / "labels.safetensors").exists():  # it is written last
        return work
    say(f"preparing {work}")
    work.mkdir(parents=True, exist_ok=True)
    data = DataArguments(task="sst2", data_dir=options.data_dir)
    train, evaluation, _ = load_splits(data)
    count = options.steps * options.batch_size
    train = train.select([index % len(train) for index in range(max(count, len(train)))]).shuffle(seed=0)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    for name, rows in (("train", train.select(range(count))), ("eval", evaluation)):
        tokenize(rows, tokenizer, data.max_length).rename_column("label", "labels").save_to_disk(work / name)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher)
    student = student_from_teacher(teacher, num_hidden_layers=options.layers)
    student.save_pretrained(work / "student")
    to_bert(student).save_pretrained(work / "student-bert")
    rows = load_from_disk(work / "train").remove_columns("labels")
    SoftLabels.compute(teacher, tokenizer, rows, bf16=False).save(work / "labels.safetensors")
    return work


def run_once(options, work: Path, contender: str, seed: int) -> dict:
    """Return the measurements of one run, which is made in a new process unless it is there."""
    name = f"{contender.replace(',', '').replace(' ', '-')}-{options.precision}-{seed}"
    path = work / "runs" / f"{name}.json"
    if not path.exists():
        say(f"{contender}, {options.precision}, round {seed + 1}")
        run = {"contender": contender, "teacher": str(options.teacher), "work": str(work), "seed": seed}
        run |= {"batch_size": options.batch_size, "bf16": options.precision == "bf16"}
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, __file__, CHILD, json.dumps(run)]
        process = subprocess.run(command, capture_output=True, text=True, env=environment)
        if process.returncode:
            sys.exit(f"{contender} failed:\n{process.stderr[-3000:]}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(process.stdout.splitlines()[-1], encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def child(run: str) -> None:
    """Train one contender in this process and print the measurements as one line of JSON."""
    warnings.filterwarnings("ignore")
    run = json.loads(run)
    with contextlib.redirect_stdout(sys.stderr):
        measurements = train(load_from_disk(Path(run["work"]) / "train"), **run)
    print(json.dumps(measurements))


def train(rows: Dataset, contender: str, teacher: str, work: str, batch_size: int, bf16: bool, seed: int) -> dict:
    """Train one contender and return its time, phases, memory, arithmetic and accuracy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    peak = matmul_peak(bf16)
    clock = Clock(len(rows) // batch_size)
    setup = Setup(Path(work), teacher, rows, batch_size, bf16, seed, clock)
    student = CONTENDERS[contender](setup)
    memory = peak_megabytes()
    lengths = [len(ids) for ids in rows["input_ids"]]
    first_token_only = student.config.model_type == "tkd"  # its live teacher then runs as a TKD as well
    flops = useful_flops(student.config, lengths, 3, first_token_only)
    if clock.phases["teacher"]:
        flops += useful_flops(AutoConfig.from_pretrained(teacher), lengths, 1, first_token_only)
    total = sum(clock.phases.values())
    evaluation = load_from_disk(setup.work / "eval")
    runner = PyTorchRunner(student, AutoTokenizer.from_pretrained(teacher), bf16=False)
    predictions = predict_logits(runner, evaluation).argmax(-1)
    return {
        "contender": contender,
        "seed": seed,
        "examples_per_second": len(rows) / clock.seconds,
        "phases": {name: clock.phases[name] / total for name in PHASES},
        "peak_megabytes": memory,
        "flops_per_second": flops / clock.seconds,
        "peak_flops_per_second": peak,
        "accuracy": float((predictions == np.array(evaluation["labels"])).mean()),
    }


def command_of(script: str, options) -> str:
    """Return the command that measures the same again."""
    size = f"--steps {options.steps} --batch-size {options.batch_size} --precision {options.precision}"
    return f"python benchmarks/{script} --teacher TEACHER --data-dir DATA {size}"


def row_of(contender: str, runs: list[dict], options) -> dict:
    """Return the row of a contender: each round's rate and its ratio to the fastest other library of that round."""
    own = [run for run in runs if run["contender"] == contender]
    peak = max(run["peak_flops_per_second"] for run in runs)
    ratios = []
    for run in own:
        rivals = [r["examples_per_second"] for r in runs if r["contender"] in OTHERS and r["seed"] == run["seed"]]
        ratios += [run["examples_per_second"] / max(rivals)] if rivals else []
    return {
        "contender": contender,
        "precision": options.precision,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "seeds": [run["seed"] for run in own],
        "examples_per_second": [run["examples_per_second"] for run in own],
        "of_fastest_peer": ratios,
        "peak_megabytes": median(run["peak_megabytes"] for run in own),
        "accuracy": median(run["accuracy"] for run in own),
        "utilisation": median(run["flops_per_second"] for run in own) / peak,
        "phases": {name: median(run["phases"][name] for run in own) for name in PHASES},
        "command": command_of("training_speed.py", options) + f" --rounds {options.rounds}",
        **environment(),
    }


if __name__ == "__main__":
    child(sys.argv[2]) if sys.argv[1:2] == [CHILD] else main()
