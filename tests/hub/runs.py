"""Run folders and reports with invented records and results, so that tests of cards need no training."""

import json
from pathlib import Path

from tkd_hf.records.run_folder import StageRecord, write_record

from ..factories import build_teacher, build_tokenizer, student_of


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
