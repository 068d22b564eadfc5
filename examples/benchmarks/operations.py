"""Where the time of our training goes, operation by operation: what is left to the limit.

    python examples/benchmarks/operations.py --teacher TEACHER --data-dir DATA --steps 20

Arguments are those of training.py. Of "ours" it sums up what torch's profiler counts in an operation itself, and writes
operations.md into the results folder.
"""

import sys
from collections import Counter
from pathlib import Path

import torch
from datasets import load_from_disk
from torch.profiler import ProfilerActivity, profile

from clock import Clock
from contenders import Setup, ours
from table import as_table, machine
from tkd_hf.hardware import describe_hardware, describe_software
from training import parse, prepare


PARTS = {
    "matrix products of layers": ("aten::mm", "aten::addmm", "aten::linear"),
    "matrix products of attention": ("aten::bmm", "aten::baddbmm", "flash_attention", "efficient_attention"),
    "drawing what dropout leaves out": ("aten::bernoulli", "native_dropout"),
    "copies, and packing away padding": ("aten::copy", "aten::index", "aten::_index", "aten::cat", "aten::fill"),
    "softmax, GELU, LayerNorm": ("softmax", "gelu", "layer_norm"),
    "optimizer and norm of gradients": ("adam", "vector_norm"),
    "data": ("enumerate(DataLoader)",),
}


def main(words: list[str] | None = None) -> int:
    options = parse(words)
    if torch.cuda.is_available():
        sys.exit("operations are timed and named as a CPU runs them; hide the GPU: CUDA_VISIBLE_DEVICES= python …")
    work = prepare(options)
    found = {precision: shares(options, work, precision == "bf16") for precision in options.precisions}
    head = [f"of the time of {options.steps} steps of {options.batch_size}", *found]
    rows = [[part, *(f"{one[part]:.0%}" for one in found.values())] for part in (*PARTS, "all else")]
    command = f"`python examples/benchmarks/operations.py --teacher TEACHER --data-dir DATA --steps {options.steps}`"
    lines = ["# Where a step of ours spends its time", "", command, "", *as_table(head, rows)]
    lines += ["", machine(describe_hardware(), describe_software()), ""]
    options.results_dir.mkdir(parents=True, exist_ok=True)
    (options.results_dir / "operations.md").write_text("\n".join(lines), encoding="utf-8")
    return 0


def shares(options, work: Path, bf16: bool) -> dict[str, float]:
    """Of the time in operations, the share of each part."""
    rows = load_from_disk(work / "train")
    setup = Setup(work, options.teacher, rows, options.batch_size, bf16, 0, Clock(options.steps))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        ours(setup)
    times = Counter()
    for operation in profiled.key_averages():
        times[part_of(operation.key)] += operation.self_cpu_time_total
    return {part: times[part] / times.total() for part in (*PARTS, "all else")}


def part_of(operation: str) -> str:
    return next((part for part, names in PARTS.items() if any(name in operation for name in names)), "all else")


if __name__ == "__main__":
    sys.exit(main())
