"""Tiny models, tokenizers and data, all made in code, so that tests need no network."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests compare numbers, which differ on a GPU
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
)

from tkd_hf.cli import main
from tkd_hf.core.statistics import bootstrap
from tkd_hf.data.tasks import get_task
from tkd_hf.data.tokenization import tokenize
from tkd_hf.inference.memory import Footprint


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


# What `--fast` leaves out: tests that run a command, train, export, or talk to a server.
SLOW_PATHS = {"benchmarks", "cli", "commands", "examples", "hub", "quantization", "upstream", "test_public_api.py"}
SLOW_FIXTURES = {"build", "run", "teacher_folder"}


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="Run the unit tests only (`make test-fast`).")


def pytest_collection_modifyitems(config, items):
    """With `--fast`, deselect the tests that run a command, train, export, or talk to a server."""
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if _folders(item) & SLOW_PATHS or _fixtures(item) & SLOW_FIXTURES]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


def _folders(item) -> set[str]:
    return set(item.path.relative_to(item.config.rootpath).parts)


def _fixtures(item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    """Cache data sets and soft labels in a folder of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Compute in float32 on every processor, as the tolerances of the tests assume."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Draw 50 bootstrap resamples instead of 1,000, which take seconds per metric."""
    monkeypatch.setattr("tkd_hf.commands.evaluate.bootstrap", partial(bootstrap, resamples=50))


@pytest.fixture
def no_processes(monkeypatch):
    """Skip the memory measurement of benchmarks, which starts a process per model."""
    monkeypatch.setattr("tkd_hf.commands.benchmark.measure_footprint", lambda *_: Footprint(1.0, 100.0, 150.0))


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


@pytest.fixture
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def teacher():
    return build_teacher()


@pytest.fixture
def examples():
    return datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS})


@pytest.fixture
def tagger():
    """Return a teacher for token classification."""
    return build_teacher(("B-X", "I-X", "O"), kind=BertForTokenClassification)


@pytest.fixture
def tagged():
    """Return the texts as lists of words; a word's label depends on its length alone."""
    words = [text.split() for text in TEXTS]
    return datasets.Dataset.from_dict({"text": words, "label": [[len(word) % 3 for word in row] for row in words]})


@pytest.fixture
def features(examples, tokenizer):
    return tokenize(examples, tokenizer)


@pytest.fixture
def build(tmp_path, teacher, tokenizer, features):
    """Return a function that builds a trainer; with `cached=True` it trains on soft labels."""
    from tkd_hf import DistillationTrainer, SoftLabels

    from .factories import arguments, student_of

    def make(cached=False, args=None, model=None, data=features, **fields):
        soft = SoftLabels.compute(teacher, tokenizer, features).attach if cached else lambda rows: rows
        return DistillationTrainer(
            model=model or student_of(teacher),
            args=args or arguments(tmp_path, **fields),
            teacher_model=None if cached else teacher,
            train_dataset=soft(data),
            eval_dataset=soft(data),
            processing_class=tokenizer,
        )

    return make


@pytest.fixture
def teacher_folder(tmp_path, teacher, tokenizer):
    """Return a folder with a saved teacher."""
    folder = tmp_path / "teacher"
    teacher.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def sst2_dir(tmp_path):
    """Return a folder for `--data-dir` with a tiny SST-2."""
    write_task(tmp_path / "data", "sst2")
    return tmp_path / "data"


def write_task(folder: Path, name: str, texts: list[str] = TEXTS) -> None:
    """Write a tiny GLUE task into a folder for `--data-dir`."""
    task = get_task(name)
    labels = LABELS if task.num_labels > 1 else [float(label) for label in LABELS]
    columns = dict.fromkeys(task.text_columns, texts)
    rows = datasets.Dataset.from_dict(columns | {"label": labels, "idx": list(range(len(texts)))})
    (folder / name).mkdir(parents=True)
    for split in (task.train_split, task.eval_split):
        rows.to_parquet(folder / name / f"{split}.parquet")


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs `tkd-hf ARGS` and returns the exit code, standard output and standard error."""

    def call(*args):
        monkeypatch.setattr("sys.argv", ["tkd-hf", *map(str, args)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code or 0, *capsys.readouterr()

    return call


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
