"""How fast teachers of three sizes label on this device.

    python examples/benchmarks/labelling.py --tokenizer TEACHER --data-dir DATA

TEACHER is a folder or Hub id of a bert-like model, whose tokenizer is taken; DATA holds `sst2/`, without it SST-2 comes
from the Hub. Weights are random: the time does not depend on them. Writes labelling.json and .md into the results
folder; scale.py computes from it what large corpora cost.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from transformers import AutoTokenizer, BertForSequenceClassification, DataCollatorWithPadding, PretrainedConfig

from clock import matmul_peak, now, useful_flops
from one_run import padded_loop
from scale import MODELS
from table import as_table, machine
from tkd_hf import SoftLabels
from tkd_hf.data.features import tokenize
from tkd_hf.data.loading import DataArguments, load_splits
from tkd_hf.hardware import describe_hardware, describe_software, has_fast_bf16


def main(words: list[str] | None = None, models: dict[str, PretrainedConfig] = MODELS) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=3, help="in which all sizes take turns")
    parser.add_argument("--results-dir", type=Path, default=Path("examples/results"))
    options = parser.parse_args(words)

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    data = DataArguments(task="sst2", data_dir=options.data_dir)
    texts = load_splits(data)[0].remove_columns("label").shuffle(seed=0)
    features = tokenize(texts.select(range(min(options.texts, len(texts)))), tokenizer, data.max_length)
    lengths = [len(ids) for ids in features["input_ids"]]
    device = "cuda" if describe_hardware()["accelerator"] else "cpu"
    teachers = {name: BertForSequenceClassification(config).eval().to(device) for name, config in models.items()}
    kinds = [(name, size) for name in teachers for size in options.batch_sizes]
    seconds, loop = {kind: [] for kind in kinds}, {kind: [] for kind in kinds}
    for done in range(options.rounds + 1):
        for name, size in kinds:
            some = features if done else features.select(range(min(size, len(features))))
            times = [now()]
            SoftLabels.compute(teachers[name], tokenizer, some, "r", size)
            times.append(now())
            padded_loop(teachers[name], DataCollatorWithPadding(tokenizer), some, size)
            times.append(now())
            if done:  # the first is what a process does once
                seconds[name, size].append(times[1] - times[0])
                loop[name, size].append(times[2] - times[1])
    rows = []
    for kind in kinds:
        name, size = kind
        taken, flops = median(seconds[kind]), useful_flops(models[name], lengths, 1, first_only=True)
        times = median(other / own for own, other in zip(seconds[kind], loop[kind], strict=True))
        row = {"teacher": name, "batch_size": size, "texts": len(lengths) / taken, "of_padded_loop": times}
        rows.append(row | {"rate": flops / taken})
    content = {
        "command": "python examples/benchmarks/labelling.py --tokenizer TEACHER --data-dir DATA "
        f"--texts {options.texts} --rounds {options.rounds}",
        "tokens": sum(lengths) / len(lengths),
        "rounds": options.rounds,
        "peak": matmul_peak(has_fast_bf16()),
        "hardware": describe_hardware(),
        "software": describe_software(),
        "rows": rows,
    }
    options.results_dir.mkdir(parents=True, exist_ok=True)
    (options.results_dir / "labelling.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (options.results_dir / "labelling.md").write_text(markdown(content), encoding="utf-8")
    return 0


def markdown(content: dict) -> str:
    cells = [
        [
            row["teacher"],
            str(row["batch_size"]),
            f"{row['texts']:,.0f}",
            f"{row['of_padded_loop']:.1f}×",
            f"{row['rate'] / 1e9:,.0f}",
            f"{row['rate'] / content['peak']:.0%}",
        ]
        for row in content["rows"]
    ]
    precision = "bf16" if content["hardware"]["bf16"] else "fp32"
    lines = [
        "# Labelling, by the size of the teacher",
        "",
        f"`{content['command']}`",
        "",
        f"Sentences of SST-2, {content['tokens']:.1f} tokens each, in {precision}, tokenised before; medians of "
        f"{content['rounds']} rounds, in which all took turns. Arithmetic is that on real tokens; its share is of what "
        f"a product of large matrices reached, {content['peak'] / 1e9:,.0f} GFLOP/s.",
        "",
        *as_table(["teacher", "batch size", "texts/s", "× a padded loop", "GFLOP/s", "share"], cells),
        "",
        machine(content["hardware"], content["software"]),
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
