"""Helpers of the benchmarks: result files, the machine, means over seeds, and tiny models and data for `--quick`."""

import argparse
import json
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import torch
from datasets import ClassLabel, Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from tkd_hf.core.hardware import describe_hardware, describe_software
from tkd_hf.data.tasks import get_task


RESULTS = Path(__file__).parent / "results.json"
QUICK = Path("runs/quick")
# training arguments of the quick size
QUICK_TRAINING = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
}
_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = "a the film story plot actor good bad fine dull moving slow not very quite".split()


def parser_of(description: str, work_dir: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have; `read_options` completes them.

    Args:
        description: the script's docstring.
        work_dir: default folder of models, data and runs.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with local copies of the tasks, DIR/TASK/SPLIT.parquet (the Hub)")
    parser.add_argument("--work-dir", type=Path, help=f"folder of models, data and runs ({work_dir})")
    parser.add_argument("--results", type=Path, help="file to write the results to (benchmarks/results.json)")
    parser.add_argument("--quick", action="store_true", help=f"run on tiny models and texts, in {QUICK}")
    parser.set_defaults(default_work_dir=work_dir)
    return parser


def read_options(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Read the options; the quick size neither reuses full runs nor replaces published results."""
    options = parser.parse_args(arguments)
    default = Path(options.default_work_dir)
    options.work_dir = options.work_dir or (QUICK / default.name if options.quick else default)
    options.results = options.results or (options.work_dir / RESULTS.name if options.quick else RESULTS)
    return options


def environment(*packages: str) -> dict:
    """Return the machine, the versions and today's date, as every row of a result file has them.

    Args:
        packages: optional packages whose versions matter for this row, such as `"onnxruntime"`.
    """
    hardware, versions = describe_hardware(), describe_software()
    processor = f"{hardware['cpu']} ({hardware['threads']} of {hardware['cores']} cores)"
    names = ("python", "tkd-hf", "torch", "transformers", *packages)
    return {
        "machine": f"{hardware['accelerator']}, {processor}" if hardware["accelerator"] else processor,
        "software": {name: versions[name] for name in names if name in versions},
        "date": date.today().isoformat(),
    }


def read_results(path: Path) -> dict:
    """Return the content of a result file, or an empty dictionary before the first run."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save_rows(path: Path, rows: Iterable[dict], key: tuple[str, ...], section: str, command: str | None = None) -> None:
    """Write rows into a result file: rows with the same key are replaced, all others stay.

    Args:
        path: the result file.
        rows: measurements; each should hold what `environment` returns.
        key: fields that identify a row.
        section: the list in the file that holds the rows.
        command: the command that measured them.
    """
    content = read_results(path)
    if command:
        content["commands"] = content.get("commands", {}) | {section: command}
    merged = {identity(row, key): row for row in [*content.get(section, []), *rows]}
    content[section] = list(merged.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(content), encoding="utf-8")


def identity(row: dict, key: tuple[str, ...]) -> tuple:
    """Return the values of a row's key."""
    return tuple(row[name] for name in key)


def to_json(content: dict) -> str:
    """Return JSON with one row per line and numbers of six digits, so that a diff shows which rows changed."""
    lines = []
    for name, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"  {json.dumps(rounded(row), ensure_ascii=False)}" for row in value)
            lines.append(f' "{name}": [\n{rows}\n ]')
        else:
            lines.append(f' "{name}": {json.dumps(rounded(value), ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def rounded(value):
    """Round every number in a nested value to six significant digits."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation of a sample; a single value has no deviation."""
    return mean(values), stdev(values) if len(values) > 1 else None


def with_deviation(values: list[float], form: str = ".4f") -> str:
    """Return `mean ± standard deviation` in a format such as `".4f"` or `".1%"`."""
    center, deviation = mean_and_deviation(values)
    return f"{center:{form}}" if deviation is None else f"{center:{form}} ± {deviation:{form}}"


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


# --- tiny models and data


def tiny_model(folder: Path, layers: int = 6, labels: tuple[str, str] = ("negative", "positive")) -> str:
    """Save a random BERT classifier of two classes and its tokenizer, unless they exist; return the folder."""
    if not (folder / "tokenizer.json").exists():
        vocabulary = [*_SPECIAL_TOKENS, *_WORDS]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary.index(token)) for token in ("[CLS]", "[SEP]")],
        )
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            initializer_range=0.5,
            id2label=dict(enumerate(labels)),
            label2id={name: index for index, name in enumerate(labels)},
        )
        BertForSequenceClassification(config).save_pretrained(folder)
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=32,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            **names,
        )
        fast.save_pretrained(folder)
    return str(folder)


def tiny_texts(count: int = 16, first: int = 0) -> list[str]:
    """Return different short texts: text i spells i in words."""
    return [
        " ".join(_WORDS[(i // 15**digit) % 15] for digit in range(1 + i % 5)) + f" {_WORDS[i % 15]} {_WORDS[i // 15]}"
        for i in range(first, first + count)
    ]


def tiny_task(folder: Path, name: str, first: int = 0) -> str:
    """Write a GLUE task of 16 examples in the layout of `--data-dir`, unless it is there; return the folder."""
    task = get_task(name)
    texts = tiny_texts(first=first)
    labels = [i % task.num_labels if task.num_labels > 1 else float(i % 6) for i in range(len(texts))]
    rows = Dataset.from_dict(dict.fromkeys(task.text_columns, texts) | {"label": labels})
    for split in (task.train_split, task.eval_split):
        path = folder / name / f"{split}.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.to_parquet(path)
    return str(folder)


def tiny_dataset(folder: Path, label: str = "label", splits: tuple[str, ...] = ("train", "validation", "test")) -> str:
    """Write a data set of 16 texts and two classes, a file per split; return the folder."""
    texts = tiny_texts()
    rows = Dataset.from_dict({"text": texts, label: [i % 2 for i in range(len(texts))]})
    rows = rows.cast_column(label, ClassLabel(names=["negative", "positive"]))
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        rows.to_parquet(folder / f"{split}.parquet")
    return str(folder)
