"""Time of a training step on a CPU, operation by operation.

    python benchmarks/operations.py --teacher TEACHER --data-dir DATA
    python benchmarks/operations.py --teacher TEACHER --data-dir DATA --batch-size 256 --steps 50
    python benchmarks/operations.py --quick

It adds up what torch's profiler counts in each operation itself while our trainer makes the steps of
training_speed.py, and once more with two examples per step, whose arithmetic hardly counts. Every step takes at
least as long as such a small one.
"""

import sys
from collections import Counter
from pathlib import Path

import torch
from datasets import load_from_disk
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig

from clock import Clock, matmul_peak, useful_flops
from common import environment, save_rows
from contenders import Setup, ours
from training_speed import command_of, parse, prepare, training_parser


PARTS = {
    "matrix products of layers": ("aten::mm", "aten::addmm", "aten::linear"),
    "matrix products of attention": ("aten::bmm", "aten::baddbmm", "flash_attention", "efficient_attention"),
    "dropout masks": ("aten::bernoulli", "native_dropout"),
    "copies and packing": ("aten::copy", "aten::index", "aten::_index", "aten::cat", "aten::fill"),
    "softmax, GELU, LayerNorm": ("softmax", "gelu", "layer_norm"),
    "optimizer and gradient norm": ("adam", "vector_norm"),
    "batches": ("enumerate(DataLoader)",),
}
REMAINDER = "everything else"
FEW_EXAMPLES = 2


def main(arguments: list[str] | None = None) -> None:
    options = parse(training_parser(__doc__), arguments)
    if torch.cuda.is_available():
        sys.exit("operations are timed and named as a CPU runs them; hide the GPU: CUDA_VISIBLE_DEVICES= python …")
    work, rows = prepare(options), []
    for batch_size in (options.batch_size, FEW_EXAMPLES):
        milliseconds = time_parts(options, work, batch_size)
        row = {"precision": options.precision, "batch_size": batch_size, "steps": options.steps}
        row |= {"milliseconds": milliseconds, "total_milliseconds": sum(milliseconds.values())}
        if batch_size == options.batch_size:
            row["arithmetic_milliseconds"] = time_of_arithmetic(options, work)
        rows.append(row | {"command": command_of("operations.py", options)} | environment())
    key = ("machine", "precision", "batch_size", "steps")
    save_rows(options.results, rows, key=key, section="operations")


def time_parts(options, work: Path, batch_size: int) -> dict[str, float]:
    """Return the milliseconds of a step by part."""
    rows = load_from_disk(work / "train")
    setup = Setup(work, options.teacher, rows, batch_size, options.precision == "bf16", 0, Clock(options.steps))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        ours(setup)
    microseconds = Counter()
    for operation in profiler.key_averages():
        microseconds[part_of(operation.key)] += operation.self_cpu_time_total
    return {part: microseconds[part] / 1e3 / options.steps for part in (*PARTS, REMAINDER)}


def part_of(operation: str) -> str:
    """Return the part that an operation of torch belongs to."""
    return next((part for part, names in PARTS.items() if any(name in operation for name in names)), REMAINDER)


def time_of_arithmetic(options, work: Path) -> float:
    """Return the milliseconds that a step would take if all its products ran as fast as one of large matrices."""
    lengths = [len(ids) for ids in load_from_disk(work / "train")["input_ids"]]
    flops = useful_flops(AutoConfig.from_pretrained(work / "student"), lengths, passes=3, first_token_only=True)
    return 1e3 * flops / options.steps / matmul_peak(options.precision == "bf16")


if __name__ == "__main__":
    main()
