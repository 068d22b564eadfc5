"""What large jobs would cost on many devices, computed from what training.py measured on one.

    python examples/benchmarks/scale.py examples/results/training-fp32.json
    python examples/benchmarks/scale.py examples/results/h200/training-bf16.json examples/results/h200/labelling.json

Only rates are measured: arithmetic a second on real tokens, of labelling and of training; with what labelling.py wrote,
those of labelling for each teacher, the best of its batch sizes. The rest is counting, and devices are taken to add up
without loss, which labelling nearly does and training does not quite.
"""

import json
import sys
from pathlib import Path

from transformers import BertConfig

from clock import useful_flops


SENTENCES, TOKENS = 10**9, 20
DEVICES = (1, 8, 64, 512)
MODELS = {
    "MiniLM-L6": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "BERT-base": BertConfig(),
    "BERT-large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
STUDENT = BertConfig(hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536)


def table(content: dict, labelling: dict | None = None) -> str:
    """Days for each job and number of devices, as Markdown."""
    rates = {row["contender"]: row["rate"] for row in content["rows"]}
    if labelling is None:
        teachers = dict.fromkeys(MODELS, rates["labelling, ours"])
    else:
        teachers = {name: max(row["rate"] for row in labelling["rows"] if row["teacher"] == name) for name in MODELS}
    jobs = [
        (f"label with {name}", useful_flops(config, [TOKENS], 1, first_only=True), teachers[name])
        for name, config in MODELS.items()
    ]
    jobs.append(
        (
            "train a student of 3 layers once over them",
            useful_flops(STUDENT, [TOKENS], 3, first_only=True),
            rates["ours"],
        )
    )
    devices = [f"{count} device{'s' if count > 1 else ''}" for count in DEVICES]
    lines = [f"| {SENTENCES:,} sentences of {TOKENS} tokens | {' | '.join(devices)} |"]
    lines.append(f"| --- |{' --- |' * len(DEVICES)}")
    for name, flops, rate in jobs:
        days = flops * SENTENCES / rate / 86400
        lines.append(f"| {name} | {' | '.join(duration(days / count) for count in DEVICES)} |")
    labelled = ", ".join(f"{rate / 1e9:,.0f}" for rate in dict.fromkeys(teachers.values()))
    hardware = content["hardware"]
    lines.append("")
    lines.append(
        f"Measured in {content['rows'][0]['precision']}, on one device: {labelled} GFLOP/s of labelling, "
        f"{rates['ours'] / 1e9:,.0f} of training."
    )
    lines.append(f"The device: {hardware['accelerator'] or hardware['cpu']}, {hardware['threads']} threads.")
    return "\n".join(lines)


def duration(days: float) -> str:
    return f"{days:,.1f} days" if days >= 1 else f"{24 * days:.1f} hours"


if __name__ == "__main__":
    print(table(*(json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:])))
