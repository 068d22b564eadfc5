"""One contender once, in a process of its own: JSON in, a line of JSON out. training.py calls it."""

import contextlib
import json
import random
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoTokenizer

from clock import PHASES, Clock, matmul_peak, now, useful_flops
from contenders import MEMORY, OURS, Setup, plain
from peers import PEERS
from tkd_hf import SoftLabels
from tkd_hf.evaluation.memory import peak_megabytes
from tkd_hf.evaluation.runners import PyTorchRunner
from tkd_hf.hardware import mixed_precision
from tkd_hf.inference import predict_logits


TRAINERS = OURS | {"plain Trainer": plain} | {name: train for name, (_, train) in PEERS.items()} | MEMORY
LABEL_BATCH = 64


@dataclass(frozen=True)
class Spec:
    """What is run.

    Args:
        contender: a name in `TRAINERS` or `LABELLERS`.
        teacher, work: folders; see `Setup`.
        batch_size, precision, seed: of the run.
    """

    contender: str
    teacher: str
    work: str
    batch_size: int
    precision: str
    seed: int

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16"


def train(spec: Spec, rows: Dataset) -> dict:
    torch.manual_seed(spec.seed)
    random.seed(spec.seed)
    np.random.seed(spec.seed)
    clock = Clock(len(rows) // spec.batch_size)
    before = peak_megabytes()
    setup = Setup(Path(spec.work), spec.teacher, rows, spec.batch_size, spec.bf16, spec.seed, clock)
    student = TRAINERS[spec.contender](setup)
    peak = peak_megabytes()
    lengths = [len(ids) for ids in rows["input_ids"]]
    first_only = student.config.model_type == "tkd"  # and then so is the teacher, which runs as one
    flops = useful_flops(student.config, lengths, 3, first_only)
    if clock.phases["teacher"]:
        flops += useful_flops(AutoConfig.from_pretrained(spec.teacher), lengths, 1, first_only)
    split = sum(clock.phases.values())
    return {
        "seconds": clock.seconds,
        "phases": {name: clock.phases[name] / split for name in PHASES},
        "before_megabytes": before,
        "peak_megabytes": peak,
        "flops": flops,
        "accuracy": accuracy(student, setup),
    }


def accuracy(student, setup: Setup) -> float:
    rows = load_from_disk(setup.work / "eval")
    tokenizer = AutoTokenizer.from_pretrained(setup.teacher)
    logits = predict_logits(PyTorchRunner(student, tokenizer, bf16=False), rows)
    return float((logits.argmax(-1) == np.array(rows["labels"])).mean())


def padded_loop(model, collate, rows: Dataset, batch_size: int, bf16: bool | None = None) -> None:
    """What is usually written: batches as they come, each padded to its longest."""
    with torch.no_grad(), mixed_precision(model.device, bf16):
        for batch in DataLoader(rows, batch_size, collate_fn=collate):
            model(**batch.to(model.device)).logits.float().cpu()


def label(spec: Spec, rows: Dataset) -> dict:
    """Our labelling, or the loop that is usually written.

    Not of the rows for training: of more, since it is done with those too soon to be measured.
    """
    rows = load_from_disk(Path(spec.work) / "texts")
    setup = Setup(Path(spec.work), spec.teacher, rows, spec.batch_size, spec.bf16, spec.seed, Clock(1))
    model, tokenizer = setup.load(spec.teacher).eval(), AutoTokenizer.from_pretrained(spec.teacher)

    def answer(some: Dataset) -> None:
        if spec.contender == "labelling, ours":
            SoftLabels.compute(model, tokenizer, some, "r", LABEL_BATCH, bf16=spec.bf16)
        else:
            padded_loop(model, setup.collate, some, LABEL_BATCH, spec.bf16)

    answer(rows.select(range(min(LABEL_BATCH, len(rows)))))  # what a process does once, however much it labels
    start = now()
    answer(rows)
    seconds = now() - start
    lengths = [len(ids) for ids in rows["input_ids"]]
    flops = useful_flops(model.config, lengths, passes=1, first_only=spec.contender == "labelling, ours")
    return {"seconds": seconds, "texts": len(rows), "flops": flops, "peak_megabytes": peak_megabytes()}


LABELLERS = {"labelling, ours": label, "labelling, padded loop": label}


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    warnings.filterwarnings("ignore")
    rows = load_from_disk(Path(spec.work) / "train")
    with contextlib.redirect_stdout(sys.stderr):
        peak = matmul_peak(spec.bf16)
        found = LABELLERS.get(spec.contender, train)(spec, rows)
    examples = found.get("texts", len(rows)) / found["seconds"]
    print(json.dumps(asdict(spec) | found | {"peak": peak, "examples": examples}))


if __name__ == "__main__":
    main()
