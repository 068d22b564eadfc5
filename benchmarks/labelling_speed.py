"""Labelling speed: how many texts per second a teacher labels, beside a loop over padded batches.

    python benchmarks/labelling_speed.py --tokenizer TEACHER --data-dir DATA
    python benchmarks/labelling_speed.py --tokenizer TEACHER --data-dir DATA --teachers MiniLM-L6 BERT-base BERT-large
    python benchmarks/labelling_speed.py --quick

The teachers have random weights, on which the time does not depend. All take turns on the same sentences of SST-2,
which are tokenized before.
"""

from statistics import median

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
)

from clock import matmul_peak, now, useful_flops
from common import environment, parser_of, read_options, save_rows, tiny_model, tiny_task
from tkd_hf import DataArguments, SoftLabels, tokenize
from tkd_hf.core.hardware import has_fast_bf16, mixed_precision
from tkd_hf.data.loading import load_split


TEACHERS = {
    "MiniLM-L6": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "BERT-base": BertConfig(),
    "BERT-large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
QUICK_TEACHERS = {"tiny": BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "runs/labelling-speed")
    parser.add_argument("--tokenizer", help="folder or Hub id of a bert-like model")
    parser.add_argument(
        "--teachers", nargs="+", choices=list(TEACHERS), default=["MiniLM-L6"], help="sizes (MiniLM-L6)"
    )
    parser.add_argument("--texts", type=int, default=20_000, help="texts to label (20000)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64], help="texts per batch (64)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each teacher labels them (3)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="precision (bf16 if the machine computes in it)")
    options = read_options(parser, arguments)
    configs = {name: TEACHERS[name] for name in options.teachers}
    if options.quick:
        configs, options.batch_sizes, options.rounds, options.precision = QUICK_TEACHERS, [2, 4], 1, "fp32"
        options.tokenizer = tiny_model(options.work_dir / "tokenizer", layers=2)
        options.data_dir = tiny_task(options.work_dir / "data", "sst2")
    elif not options.tokenizer:
        parser.error("name a model whose tokenizer to use with --tokenizer, or try --quick")
    options.precision = options.precision or ("bf16" if has_fast_bf16() else "fp32")

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    data = DataArguments(task="sst2", data_dir=options.data_dir)
    texts = load_split(data, "train")[0].remove_columns("label").shuffle(seed=0)
    features = tokenize(texts.select(range(min(options.texts, len(texts)))), tokenizer, data.max_length)
    key = ("machine", "precision", "teacher", "batch_size", "texts")
    save_rows(options.results, measure(configs, tokenizer, features, options), key=key, section="labelling")


def measure(configs: dict[str, BertConfig], tokenizer, features: Dataset, options) -> list[dict]:
    """Return a row per teacher and batch size, with each round's rate and its ratio to the padded loop."""
    device, bf16 = "cuda" if torch.cuda.is_available() else "cpu", options.precision == "bf16"
    teachers = {name: BertForSequenceClassification(config).eval().to(device) for name, config in configs.items()}
    collate = DataCollatorWithPadding(tokenizer)
    times = {(name, batch_size): [] for name in teachers for batch_size in options.batch_sizes}
    for round_number in range(options.rounds + 1):
        for (name, batch_size), seconds in times.items():
            warm_up = round_number == 0  # the first round is the warm-up of the process
            rows = features.select(range(min(batch_size, len(features)))) if warm_up else features
            start = now()
            SoftLabels.compute(teachers[name], tokenizer, rows, "random weights", batch_size, bf16=bf16)
            middle = now()
            padded_loop(teachers[name], collate, rows, batch_size, bf16)
            if not warm_up:
                seconds.append((middle - start, now() - middle))
    command = f"python benchmarks/labelling_speed.py --tokenizer TEACHER --data-dir DATA --texts {options.texts}"
    command += f" --rounds {options.rounds} --precision {options.precision} --batch-sizes"
    lengths, peak = [len(ids) for ids in features["input_ids"]], matmul_peak(bf16)
    rows = []
    for (name, batch_size), seconds in times.items():
        flops = useful_flops(configs[name], lengths, 1, first_token_only=True)
        rows.append(
            {
                "teacher": name,
                "precision": options.precision,
                "batch_size": batch_size,
                "texts": len(lengths),
                "texts_per_second": [len(lengths) / ours for ours, _ in seconds],
                "of_padded_loop": [loop / ours for ours, loop in seconds],
                "utilisation": flops / median(ours for ours, _ in seconds) / peak,
                "command": f"{command} {batch_size} --teachers {name}",
                **environment(),
            }
        )
    return rows


def padded_loop(model: PreTrainedModel, collate, rows: Dataset, batch_size: int, bf16: bool) -> None:
    """Label in the usual way: batches in the order of the texts, each padded to its longest."""
    with torch.no_grad(), mixed_precision(model.device, bf16):
        for batch in DataLoader(rows, batch_size, collate_fn=collate):
            model(**batch.to(model.device)).logits.float().cpu()


if __name__ == "__main__":
    main()
