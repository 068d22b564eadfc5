"""Tiny models, tokenizers and data, all made in code: tests need no network."""

import json
import os
from functools import partial
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same everywhere: models and batches of the tests are on the CPU
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
)

from tkd_hf.cli import main
from tkd_hf.data.tasks import get_task
from tkd_hf.data.tokenization import tokenize
from tkd_hf.evaluation.intervals import bootstrap
from tkd_hf.evaluation.memory import Footprint


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
# the first lines of a program of which a test compares what it computes: what `float32` does here
FLOAT32 = "import torch\ntorch.cpu.get_capabilities = dict\n"
# training arguments of a command that is to be quick
FAST = "--num-train-epochs 1 --per-device-train-batch-size 4 --use-cpu --bf16 false --report-to none --save-strategy no"


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    """Data sets and soft labels are cached in a folder of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """No processor computes in bfloat16 unless a test says so: tolerances are those of float32 everywhere."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """An evaluation's intervals rest on as many as tell that they are there: a thousand take seconds a metric."""
    monkeypatch.setattr("tkd_hf.stages.evaluate.bootstrap", partial(bootstrap, resamples=50))


@pytest.fixture
def no_processes(monkeypatch):
    """A benchmark does not measure memory, which takes a process a model: `tests/evaluation/test_benchmark.py` does."""
    monkeypatch.setattr("tkd_hf.stages.benchmark.measure_footprint", lambda *_: Footprint(1.0, 100.0, 150.0))


def build_tokenizer(words: list[str] = WORDS, **kwargs) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that writes `[CLS] a [SEP] b [SEP]`, as BERT's does."""
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
    """A BERT with weights large enough for its answers to differ."""
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
    """A teacher that gives each token a label."""
    return build_teacher(("B-X", "I-X", "O"), kind=BertForTokenClassification)


@pytest.fixture
def tagged():
    """Words of the texts with tags as codes that the words decide."""
    words = [text.split() for text in TEXTS]
    return datasets.Dataset.from_dict({"text": words, "label": [[len(word) % 3 for word in row] for row in words]})


@pytest.fixture
def features(examples, tokenizer):
    return tokenize(examples, tokenizer)


@pytest.fixture
def build(tmp_path, teacher, tokenizer, features):
    """Builds a trainer; `cached=True` takes the teacher's answers from soft labels."""
    from tkd_hf import DistillationTrainer, SoftLabels

    from .training import arguments, student_of

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
    """A teacher as it lies on disk."""
    folder = tmp_path / "teacher"
    teacher.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def sst2_dir(tmp_path):
    """A folder in the layout of `--data-dir`, with a tiny SST-2."""
    write_task(tmp_path / "data", "sst2")
    return tmp_path / "data"


def write_task(folder: Path, name: str, texts: list[str] = TEXTS) -> None:
    """A tiny GLUE task in the layout of `--data-dir`."""
    task = get_task(name)
    labels = LABELS if task.num_labels > 1 else [float(label) for label in LABELS]
    columns = dict.fromkeys(task.text_columns, texts)
    rows = datasets.Dataset.from_dict(columns | {"label": labels, "idx": list(range(len(texts)))})
    (folder / name).mkdir(parents=True)
    for split in (task.train_split, task.eval_split):
        rows.to_parquet(folder / name / f"{split}.parquet")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `tkd-hf WORDS`; gives the exit code, standard output and standard error."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["tkd-hf", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code or 0, *capsys.readouterr()

    return call


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))
