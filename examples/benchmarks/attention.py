"""How long attention takes, fused (sdpa) and as separate matrix products (eager), forward and backward, on one thread.

    python examples/benchmarks/attention.py

Writes attention.md into the results folder: why training in bfloat16 on a CPU does without the fused kernel
(`tkd_hf.hardware.unfused_attention`).
"""

import sys
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import scaled_dot_product_attention

from clock import now
from table import as_table, machine
from tkd_hf.hardware import describe_hardware, describe_software


TOKENS, HEADS, HEAD_DIM = 1024, 12, 32  # in a batch, whatever the length; of MiniLM
LENGTHS = (16, 32, 128, 512)


def eager(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return (query @ key.transpose(-1, -2) * HEAD_DIM**-0.5).softmax(-1) @ value


def milliseconds(attend, length: int, dtype: torch.dtype, rounds: int) -> float:
    """Of one forward and backward pass, the median; the first is not counted."""
    shape = (TOKENS // length, HEADS, length, HEAD_DIM)
    inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
    times = []
    for _ in range(rounds + 1):
        begin = now()
        attend(*inputs).sum().backward()
        times.append(1000 * (now() - begin))
    return median(times[1:])


def main(folder: Path, lengths: tuple[int, ...] = LENGTHS, rounds: int = 7) -> None:
    torch.set_num_threads(1)
    rows = []
    for length in lengths:
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            fused, separate = (
                milliseconds(attend, length, dtype, rounds) for attend in (scaled_dot_product_attention, eager)
            )
            rows.append([str(length), name, f"{fused:.1f}", f"{separate:.1f}", f"{fused / separate:.1f}×"])
    head = ["tokens a text", "", "fused, ms", "separate, ms", "fused ÷ separate"]
    about = f"Forward and backward of attention alone, {TOKENS} tokens a batch, {HEADS} heads of {HEAD_DIM}; medians."
    command = "`python examples/benchmarks/attention.py`"
    lines = ["# Attention, fused and not", "", command, "", about, "", *as_table(head, rows)]
    lines += ["", machine(describe_hardware(), describe_software()), ""]
    (folder / "attention.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/results"))
