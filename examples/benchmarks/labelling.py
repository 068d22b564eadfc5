"""How fast teachers of three sizes label on this device.

    python examples/benchmarks/labelling.py --tokenizer TEACHER --data-dir DATA

TEACHER is a folder or Hub id of a bert-like model, whose tokenizer is taken; DATA holds `sst2/`, without it SST-2 comes
from the Hub. Weights are random: the time does not depend on them. Writes labelling.json and .md into the results
folder; scale.py computes from it what large corpora cost.
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from statistics import median

import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

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
    rows = []
    for (name, batch_size), times in measured(models, options.batch_sizes, tokenizer, features, options.rounds).items():
        taken = median(ours for ours, _ in times)
        flops = useful_flops(models[name], lengths, 1, first_only=True)
        row = {"teacher": name, "batch_size": batch_size, "texts": len(lengths) / taken, "rate": flops / taken}
        rows.append(row | {"of_padded_loop": median(loop / ours for ours, loop in times)})
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


def measured(
    models: dict[str, PretrainedConfig],
    batch_sizes: list[int],
    tokenizer: PreTrainedTokenizerBase,
    features: Dataset,
    rounds: int,
) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """Seconds of our labelling and of a padded loop, for each teacher and batch size, in each round."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teachers = {name: BertForSequenceClassification(config).eval().to(device) for name, config in models.items()}
    collate = DataCollatorWithPadding(tokenizer)
    times = {kind: [] for kind in product(teachers, batch_sizes)}
    for warm in range(rounds + 1):
        for (name, size), seconds in times.items():
            some = features if warm else features.select(range(min(size, len(features))))
            begin = now()
            SoftLabels.compute(teachers[name], tokenizer, some, "r", size)
            middle = now()
            padded_loop(teachers[name], collate, some, size)
            if warm:  # before that, what a process does once
                seconds.append((middle - begin, now() - middle))
    return times


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
