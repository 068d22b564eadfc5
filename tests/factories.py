"""Builders for the tests: tiny models, tokenizers and data, all made in code, and quiet training.

`conftest.py` makes fixtures of them. Processes that a test starts import this module, not `conftest.py`.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tkd_hf import DistillationTrainingArguments, student_from_teacher
from tkd_hf.cli import main
from tkd_hf.data.tasks import get_task
from tkd_hf.inference.memory import Footprint
from tkd_hf.records.run_folder import StageRecord, write_record


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a b good bad film dull fine story very not".split()]
TEXTS = [
    "good film",
    "bad film",
    "a very fine story",
    "dull",
    "not good",
    "b",
    "a very very dull story not fine",
    "fine",
]
LABELS = [1, 0, 1, 0, 0, 1, 0, 1]
# First lines of a program whose results a test compares; like the fixture `float32`, they turn bfloat16 off.
FLOAT32 = "import torch\ntorch.cpu.get_capabilities = dict\n"
# Training arguments that make a command quick.
FAST = "--num-train-epochs 1 --per-device-train-batch-size 4 --use-cpu --bf16 false --report-to none --save-strategy no"
QUIET = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "save_total_limit": None,  # tests resume from any checkpoint
}


def build_tokenizer(words: list[str] = WORDS, **kwargs) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer that encodes pairs as `[CLS] a [SEP] b [SEP]`, as BERT's does."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, words.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, model_input_names=inputs, **names, **kwargs
    )


def build_teacher(
    labels: tuple[str, ...] = ("negative", "positive"),
    seed: int = 0,
    kind=BertForSequenceClassification,
    layers: int = 4,
    **fields,
):
    """Return a BERT whose weights are large enough for its predictions to differ."""
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=32,
        initializer_range=0.5,
        num_labels=len(labels) or 1,
        **({"id2label": names, "label2id": {name: i for i, name in names.items()}} if labels else {}),
        **sizes | fields,
    )
    return kind(config).eval()


def arguments(tmp_path, **fields) -> DistillationTrainingArguments:
    common = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "train_sampling_strategy": "random"}
    return DistillationTrainingArguments(str(tmp_path / "run"), **QUIET | common | fields)


def student_of(teacher, dropout=0.0, **kwargs) -> PreTrainedModel:
    """Return a two-layer student; every call gives the same weights."""
    torch.manual_seed(7)
    fields = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return student_from_teacher(teacher, num_hidden_layers=2, **fields, **kwargs)


def losses(trainer) -> list[float]:
    """Train, and return the loss of each step."""
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer) -> torch.Tensor:
    """Return all trainable weights as one vector."""
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters() if weight.requires_grad])


def logits_of_texts(model, tokenizer) -> torch.Tensor:
    """Return a model's logits for the test texts, without gradients."""
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits


def write_task(folder: Path, name: str, texts: list[str] = TEXTS) -> None:
    """Write a tiny GLUE task into a folder for `--data-dir`."""
    task = get_task(name)
    labels = LABELS if task.num_labels > 1 else [float(label) for label in LABELS]
    columns = dict.fromkeys(task.text_columns, texts)
    rows = datasets.Dataset.from_dict(columns | {"label": labels, "idx": list(range(len(texts)))})
    (folder / name).mkdir(parents=True)
    for split in (task.train_split, task.eval_split):
        rows.to_parquet(folder / name / f"{split}.parquet")


def skip_memory_measurement(monkeypatch) -> None:
    """Replace the memory measurement of benchmarks, which starts a process per model."""
    monkeypatch.setattr("tkd_hf.commands.benchmark.measure_footprint", lambda *_: Footprint(1.0, 100.0, 150.0))


def run_command(*args) -> tuple[int, str, str]:
    """Run `tkd-hf ARGS` in this process; return the exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(out), redirect_stderr(err):
        monkeypatch.setattr("sys.argv", ["tkd-hf", *map(str, args)])
        with pytest.raises(SystemExit) as exit_:
            main()
    return exit_.value.code or 0, out.getvalue(), err.getvalue()


class SharedFolder:
    """A folder with a teacher and a tiny SST-2, for commands whose results several tests look at.

    Args:
        path: the folder, which is empty.
    """

    def __init__(self, path: Path):
        self.path, self.teacher = path, path / "teacher"
        self.data = ["--task", "sst2", "--data-dir", str(path / "data")]
        build_teacher().save_pretrained(self.teacher)
        build_tokenizer().save_pretrained(self.teacher)
        write_task(path / "data", "sst2")

    def run(self, *args) -> tuple[str, str]:
        """Run `tkd-hf ARGS`, which must succeed; return standard output and standard error."""
        code, out, err = run_command(*args)
        assert code == 0, err
        return out, err


def page_code(heading: str) -> str:
    """Return the Python code in a section of docs/extending.md."""
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL))


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_recipe(folder: Path, stages: list[dict], **content) -> Path:
    """Write a recipe into a folder, and return its path."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**content, "stages": stages}))
    return path


# A program that runs `tkd-hf` and kills itself while it writes the checkpoint that its first argument names.
KILL_AT_CHECKPOINT = f"""
{FLOAT32}
import os, signal, sys
from tkd_hf import DistillationTrainer
from tkd_hf.cli import main

save, checkpoint = DistillationTrainer._save_rng_state, sys.argv.pop(1)

def kill(self, folder):
    save(self, folder)
    if folder.endswith(checkpoint):
        os.kill(os.getpid(), signal.SIGKILL)

DistillationTrainer._save_rng_state = kill
main()
"""


def run_until_killed(args: list[str], checkpoint: str, home: Path) -> None:
    """Run `tkd-hf ARGS` in a process that is killed while it writes a checkpoint of a distillation."""
    command = [sys.executable, "-c", KILL_AT_CHECKPOINT, checkpoint, *args]
    killed = subprocess.run(command, env={**os.environ, "HF_HOME": str(home)}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


SOFTWARE = {"python": "3.11.7", "tkd-hf": "0.1.0"}
HARDWARE = {"cpu": "A CPU", "cores": 4, "threads": 2, "accelerator": None, "bf16": False}


def distilled(**changes) -> StageRecord:
    """Return the record of a distillation from a teacher on the Hub."""
    fields = {
        "inputs": {
            "teacher": "org/teacher",
            "teacher_revision": "commit-0123abc",
            "task": "sst2",
            "dataset": "nyu-mll/glue",
            "config": "sst2",
            "splits": {"train": "train", "eval": "validation"},
            "train": "aaaa1111",
            "eval": "bbbb2222",
        },
        "arguments": {
            "max_length": 128,
            "live": False,
            "learning_rate": "0.0003",
            "lr_scheduler_type": "SchedulerType.LINEAR",
            "optim": "OptimizerNames.ADAMW_TORCH_FUSED",
            "bf16": "False",
            "seed": "42",
            "temperature": "3.0",
            "objectives": {"logits": 0.9, "hard": 0.1},
        },
        "metrics": {"loss": 0.5, "accuracy": 0.75, "agreement": 0.875},
        "details": {"teacher_layers": [1, 3]},
        "seconds": 12.0,
        "finished": "2026-01-01T00:00:00+00:00",
        "software": SOFTWARE,
        "hardware": HARDWARE,
    }
    return StageRecord("distill", **{**fields, **changes})


def run_folder(path: Path, record: StageRecord | None, **fields) -> Path:
    """Save a student of two layers with its tokenizer and its record."""
    student_of(build_teacher(**fields)).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    if record:
        write_record(path, record)
    return path


def report_folder(path: Path, *models: str) -> Path:
    """Write a report on students, with one plot."""
    (path / "pictures").mkdir(parents=True)
    (path / "pictures" / "pareto.png").write_bytes(b"picture")
    names = ["/home/someone/teacher", *models]
    timing = {"batch_size": 1, "length": None, "rounds": 2, "p50": 4.0, "p95": 5.0, "throughput": 250.0}
    cost = {
        "backend": "pytorch",
        "device": "cpu",
        "dtype": "float32",
        "parameters": {"embeddings": 1000, "encoder": 2000},
        "megabytes": 12.0,
        "footprint": {"load_seconds": 0.5, "before_megabytes": 100.0, "peak_megabytes": 200.0},
        "tokenization": 30.0,
        "timings": [timing | {"speedup": 2.0, "interval": [1.9, 2.1]}],
    }
    recall = [{"name": "negative", "examples": 4, "teacher": 1.0, "model": 0.5}]
    fidelity = {"agreement": 0.875, "kl": 0.25, "teacher_only": 2, "model_only": 1, "p_value": 1.0, "classes": recall}
    result = {
        "backend": "pytorch",
        "metrics": {"accuracy": 0.8125},
        "intervals": {"accuracy": [0.7, 0.9]},
        "calibration": {"error": 0.0625, "bins": []},
        "parameters": {"embeddings": 1000, "encoder": 2000},
        "megabytes": 12.0,
        "milliseconds": 4.0,
        "fidelity": fidelity,
        "changes": {"accuracy": {"change": -0.0625, "interval": [-0.1, 0.0]}},
    }
    content = {
        "names": ["teacher", *models],
        "evaluation": {
            "task": "sst2",
            "split": "validation",
            "examples": 8,
            "models": [{"name": name, **result} for name in names],
            "software": SOFTWARE,
            "hardware": HARDWARE,
        },
        "benchmark": {
            "models": [{"name": name, **cost} for name in names],
            "reference": names[0],
            "texts": "sst2",
            "tokens": 9.5,
            "batch_sizes": [1],
            "lengths": [16],
            "software": SOFTWARE,
            "hardware": HARDWARE,
        },
        "logs": {},
        "disagreements": {models[0]: "disagreements.jsonl"},
        "finished": "2026-01-02T00:00:00+00:00",
    }
    (path / "report.json").write_text(json.dumps(content))
    return path
