"""`tkd-hf verify`: whether what lies on the Hub is what its card says."""

import difflib
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download

from ..adapters import merge_adapter
from ..data.loading import DataArguments, load_split
from ..data.tasks import GLUE_TASKS, Task
from ..errors import CardMismatch, InputError
from ..evaluation.runners import load_runner, runner_config
from ..hardware import describe_software
from ..hub.folder import CARD
from ..hub.metadata import read_card
from ..hub.push import check_repo_id, hub_errors
from ..hub.verify import Claim, Snapshot, fetch_snapshot, logits_without_package, read_claims, untrusted_code
from ..labels import label_names
from ..model_loading import classifier_class
from ..model_names import split_revision
from .evaluate import evaluate, first_texts
from .push import write_card
from .run_folder import read_record


COMPARED_TEXTS = 8
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:[.,]\d+)*(?![\w-])")


@dataclass
class CheckedMetric:
    """A figure of the card beside the one that was measured; `None` for what this data cannot tell."""

    metric: str
    card: float
    measured: float | None


@dataclass
class Verification:
    """What was found true of a model on the Hub.

    Args:
        model: its name.
        commit: the commit that was verified.
        files: how many files have the hash that the commit says.
        task, split, examples: what it was measured on.
        loads: in what ways it was loaded, with the same answers.
        figures: those of the card.
        tolerance: how far from the card a figure may lie.
        text: where the card's text says other figures than the record and the report beside it.
    """

    model: str
    commit: str
    files: int
    task: str
    split: str
    examples: int
    loads: list[str]
    figures: list[CheckedMetric]
    tolerance: float
    text: list[str] = field(default_factory=list)

    @property
    def false(self) -> list[CheckedMetric]:
        """The figures that are not what the card says."""
        told = [figure for figure in self.figures if figure.measured is not None]
        return [figure for figure in told if abs(figure.card - figure.measured) > self.tolerance]

    def check(self) -> None:
        """Passes a true card; `CardMismatch` names the figures that are not."""
        wrong = [f"{one.metric} {one.card:g}, but {one.measured:.4f} was measured" for one in self.false]
        if wrong or self.text:
            raise CardMismatch(f"the card of {self.model} is false: it says {'; '.join(wrong + self.text)}")

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def verify(
    model: str, data: DataArguments, tolerance: float = 0.002, batch_size: int = 128, trust_remote_code: bool = False
) -> Verification:
    """Fetches a model from the Hub anew, and compares it with its commit and its card.

    The hash of each file is compared with the commit's. The model, of an adapter merged with its base, is loaded with
    this package, and by its id in a process that has not got it; both have to answer alike. Then it is evaluated on
    what the card names.

    Args:
        model: `org/name` or `org/name@revision`.
        data: what the card's figures were measured on; `task_of` tells which task that is.
        tolerance: how far a figure may lie from the card's, as other hardware rounds otherwise.
        batch_size: examples at a time.
        trust_remote_code: run source files that are not this package's own. Read them first.

    Raises:
        InputError: if the model cannot be fetched, has no card with figures for this data, or brings foreign code.
        CardMismatch: if files are not what the commit says, or the model does not load, or not with the same answers.
            Figures are left to `Verification.check`.
    """
    with tempfile.TemporaryDirectory() as folder:
        snapshot = fetch_snapshot(model, Path(folder, "hub"))
        foreign = untrusted_code(snapshot)
        if foreign and not trust_remote_code:
            raise InputError(
                f"{model} brings code that is not this package's: {', '.join(foreign)}; read it, and add "
                "--trust-remote-code if you trust it"
            )
        place = str(_whole(snapshot, Path(folder, "whole")))
        examples, task = load_split(data, "eval", fallback_label_names=label_names(runner_config(place)))
        claimed = _about(read_claims(snapshot.folder), task)
        if not claimed:
            raise InputError(
                f"the card of {model} has no figures for {task.eval_split!r} of {task.name}; name its data"
            )
        if not {claim.metric for claim in claimed} & set(task.metrics):
            raise InputError(
                f"the card of {model} says {', '.join(claim.metric for claim in claimed)} of {task.name}, and of that "
                f"{', '.join(task.metrics)} can be measured"
            )
        loads = _load_both_ways(snapshot, place, task, first_texts(examples, COMPARED_TEXTS))
        found = evaluate(place, data, batch_size=batch_size)
        text = differing_numbers(snapshot.folder, snapshot.repo_id)
    measured = found.models[0].metrics
    figures = [CheckedMetric(claim.metric, claim.value, measured.get(claim.metric)) for claim in claimed]
    return Verification(
        model,
        snapshot.commit,
        snapshot.files,
        task.name,
        task.eval_split,
        len(examples),
        loads,
        figures,
        tolerance,
        text,
    )


def claimed_task(model: str) -> str:
    """The GLUE task that a card's figures are of; `InputError` if it is none, or several."""
    name, revision = split_revision(model)
    check_repo_id(name)
    with hub_errors(f"fetch the card of {model}", "nothing was verified"):
        card = hf_hub_download(name, "README.md", revision=revision)
    claimed = read_claims(Path(card).parent)
    tasks = [task.name for task in GLUE_TASKS.values() if _about(claimed, task)]
    if len(tasks) != 1:
        data = ", ".join(sorted({claim.dataset for claim in claimed}))
        raise InputError(f"the card of {model} has figures for {data}; name the data with --task or --dataset")
    return tasks[0]


def differing_numbers(folder: Path, repo_id: str) -> list[str]:
    """Where a card's text says other figures than one that is written anew from the record and report beside it.

    What people wrote stays in both. A record that another version of this package wrote may be worded otherwise, and is
    not compared.
    """
    _, text = read_card((folder / CARD).read_text(encoding="utf-8"))
    record = read_record(folder)
    if record is None or record.software.get("tkd-hf") != describe_software()["tkd-hf"]:
        return []
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, repo_id.rpartition("/")[2])
        shutil.copytree(folder, copy, copy_function=lambda file, link: os.symlink(os.path.realpath(file), link))
        _, anew = read_card(write_card(copy, repo_id))
    return _differences(_figures(text), _figures(anew))


def _figures(text: str) -> list[tuple[str, str]]:
    """The numbers of a text, each with its line; not those within names."""
    return [(number, line.strip()) for line in text.splitlines() for number in _NUMBER.findall(line)]


def _differences(said: list[tuple[str, str]], true: list[tuple[str, str]]) -> list[str]:
    numbers = [[number for number, _ in figures] for figures in (said, true)]
    changes = difflib.SequenceMatcher(None, *numbers, autojunk=False).get_opcodes()
    return [
        f"{', '.join(numbers[0][a:b]) or 'nothing'} where its record says {', '.join(numbers[1][c:d]) or 'nothing'} "
        f"({(said[a:b] or true[c:d])[0][1]!r})"
        for kind, a, b, c, d in changes
        if kind != "equal"
    ]


def _about(claimed: list[Claim], task: Task) -> list[Claim]:
    """The claims about a task's evaluation split; a card that names no split means that one."""
    return [claim for claim in claimed if claim.dataset == task.name and claim.split in (None, task.eval_split)]


def _whole(snapshot: Snapshot, folder: Path) -> Path:
    """The folder of the model: of an adapter, of both merged."""
    if snapshot.base is None:
        return snapshot.folder
    merge_adapter(snapshot.folder, folder, base=str(snapshot.base.folder))
    return folder


def _load_both_ways(snapshot: Snapshot, place: str, task: Task, texts: list[tuple[str, ...]]) -> list[str]:
    """Loads the model with this package and without it; `CardMismatch` unless both answer alike."""
    runner = load_runner(place, task.problem_type)
    if runner.backend not in ("pytorch", "bitsandbytes"):
        return [runner.backend]
    auto_class = classifier_class(runner.config).__name__
    without = logits_without_package(snapshot, auto_class, texts)
    for text, other in zip(texts, without, strict=True):
        own = runner(runner.tokenizer(*text, truncation=True, return_tensors="pt")).float().cpu()
        if own.shape != other.shape or not torch.allclose(own, other, rtol=1e-3, atol=1e-3):
            raise CardMismatch(
                f"{snapshot.repo_id} answers otherwise without tkd_hf: to {' / '.join(text)!r} {other.tolist()} "
                f"instead of {own.tolist()}"
            )
    return ["with tkd_hf", "with trust_remote_code=True"]
