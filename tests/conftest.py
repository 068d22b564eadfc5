"""Settings and fixtures of all tests. The builders behind the fixtures are in factories.py."""

import importlib
import os
import sys
from functools import partial


os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests compare numbers, which differ on a GPU
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import pytest
import torch
from transformers import BertForTokenClassification

from tkd_hf import DistillationTrainer, SoftLabels
from tkd_hf.core.statistics import bootstrap
from tkd_hf.data.tasks import TASKS
from tkd_hf.data.tokenization import tokenize
from tkd_hf.evaluation.metrics import METRICS
from tkd_hf.models.architectures import ARCHITECTURES
from tkd_hf.models.backends import BACKENDS
from tkd_hf.objectives import OBJECTIVES

from .factories import (
    LABELS,
    TEXTS,
    SharedFolder,
    arguments,
    build_teacher,
    build_tokenizer,
    page_code,
    run_command,
    skip_memory_measurement,
    student_of,
    write_task,
)


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
def settings(tmp_path_factory, monkeypatch):
    """Keep a test independent of other tests and of the processor, and quick."""
    change_settings(tmp_path_factory, monkeypatch)


def change_settings(tmp_path_factory, monkeypatch) -> None:
    """Cache in new folders, compute in float32, as tolerances assume, and draw 50 bootstrap resamples, not 1,000."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr("tkd_hf.commands.evaluate.bootstrap", partial(bootstrap, resamples=50))


@pytest.fixture
def no_processes(monkeypatch):
    """Skip the memory measurement of benchmarks, which starts a process per model."""
    skip_memory_measurement(monkeypatch)


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


@pytest.fixture
def run():
    """Return a function that runs `tkd-hf ARGS` and returns the exit code, standard output and standard error."""
    return run_command


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a folder with a teacher and a tiny SST-2, and run commands in it for several tests of a module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        change_settings(tmp_path_factory, monkeypatch)
        yield SharedFolder(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Return a function that imports the code in a section of docs/extending.md as a module from outside the package.

    Everything that the module registers is removed after the test.
    """
    registries: list[dict] = [OBJECTIVES, TASKS, METRICS, BACKENDS, ARCHITECTURES]
    before = [dict(registry) for registry in registries]
    folder = tmp_path / "extensions"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def load(heading: str):
        name = heading.replace(" ", "_").lower()
        monkeypatch.delitem(sys.modules, name, raising=False)
        (folder / f"{name}.py").write_text(page_code(heading), encoding="utf-8")
        return importlib.import_module(name)

    yield load
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)
