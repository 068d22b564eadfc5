"""Where the time of our training goes, operation by operation: what is left to the limit, and what no batch can save.

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
from transformers import AutoConfig

from clock import Clock, matmul_peak, useful_flops
from contenders import Setup, ours
from table import as_table, machine
from tkd_hf.hardware import describe_hardware, describe_software
from training import parse, prepare, size_of


PARTS = {
    "matrix products of layers": ("aten::mm", "aten::addmm", "aten::linear"),
    "matrix products of attention": ("aten::bmm", "aten::baddbmm", "flash_attention", "efficient_attention"),
    "drawing what dropout leaves out": ("aten::bernoulli", "native_dropout"),
    "copies, and packing away padding": ("aten::copy", "aten::index", "aten::_index", "aten::cat", "aten::fill"),
    "softmax, GELU, LayerNorm": ("softmax", "gelu", "layer_norm"),
    "optimizer and norm of gradients": ("adam", "vector_norm"),
    "data": ("enumerate(DataLoader)",),
}
REST = "all else"
SMALL = 2  # examples: so few that their arithmetic hardly counts


def main(words: list[str] | None = None) -> int:
    options = parse(words)
    if torch.cuda.is_available():
        sys.exit("operations are timed and named as a CPU runs them; hide the GPU: CUDA_VISIBLE_DEVICES= python …")
    work = prepare(options)
    sizes = [(precision, size) for precision in options.precisions for size in (options.batch_size, SMALL)]
    found = [times(options, work, precision == "bf16", size) for precision, size in sizes]
    head = ["of a step, milliseconds", *(f"{precision}, {size} examples" for precision, size in sizes)]
    rows = [[part, *(f"{one[part]:.1f}" for one in found)] for part in (*PARTS, REST)]
    rows.append(["in all", *(f"{sum(one.values()):.1f}" for one in found)])
    command = f"`python examples/benchmarks/operations.py --teacher TEACHER --data-dir DATA {size_of(options)}`"
    about = (
        f"Means of {options.steps} steps. What {SMALL} examples take, every step takes, however many it learns from."
    )
    lines = ["# Where a step of ours spends its time", "", command, "", *as_table(head, rows), "", about]
    lines += [needed(options, work, precision) for precision in options.precisions]
    lines += ["", machine(describe_hardware(), describe_software()), ""]
    options.results_dir.mkdir(parents=True, exist_ok=True)
    (options.results_dir / "operations.md").write_text("\n".join(lines), encoding="utf-8")
    return 0


def times(options, work: Path, bf16: bool, batch_size: int) -> dict[str, float]:
    """Milliseconds of a step by part."""
    rows = load_from_disk(work / "train")
    setup = Setup(work, options.teacher, rows, batch_size, bf16, 0, Clock(options.steps))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        ours(setup)
    found = Counter()
    for operation in profiled.key_averages():
        found[part_of(operation.key)] += operation.self_cpu_time_total
    return {part: found[part] / 1e3 / options.steps for part in (*PARTS, REST)}


def needed(options, work: Path, precision: str) -> str:
    """The arithmetic of a step, and how long it would take if all of it ran as large matrix products do."""
    lengths = [len(ids) for ids in load_from_disk(work / "train")["input_ids"]]
    flops = useful_flops(AutoConfig.from_pretrained(work / "student"), lengths, passes=3, first_only=True)
    step, peak = flops / options.steps, matmul_peak(precision == "bf16")
    return (
        f"In {precision} the arithmetic on the tokens of {options.batch_size} examples, {step / 1e9:.1f} GFLOP, would "
        f"take {1e3 * step / peak:.1f} ms at the rate of a large matrix product, {peak / 1e9:,.0f} GFLOP/s."
    )


def part_of(operation: str) -> str:
    return next((part for part, names in PARTS.items() if any(name in operation for name in names)), REST)


if __name__ == "__main__":
    sys.exit(main())
