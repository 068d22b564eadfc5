"""Verify that a model on the Hub matches its commit and its card (`tkd-hf verify`)."""

import difflib
import math
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download

from ..cards.generate import CARD_SOURCES
from ..cards.metadata import read_card
from ..core.errors import CardMismatch, InputError, is_at_most
from ..core.hardware import describe_software
from ..core.names import label_names, split_revision
from ..core.options import accepts
from ..data.arguments import DataArguments
from ..data.loading import load_split
from ..data.tasks import TASKS, Task
from ..evaluation.columns import number
from ..hub.folder import CARD
from ..hub.push import check_repo_id, hub_errors
from ..hub.verify import Claim, Snapshot, fetch_snapshot, logits_without_package, read_claims, untrusted_code
from ..inference.runners import load_runner, runner_config
from ..models.loading import classifier_class
from ..models.lora import merge_adapter
from ..quantization import BACKENDS
from ..records.run_folder import read_record
from .evaluate import evaluate, first_texts
from .options import VerifyOptions
from .push import write_card


COMPARED_TEXTS = 8
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:[.,]\d+)*(?![\w-])")


@dataclass
class CheckedMetric:
    """A metric as the card states it and as it was measured; `measured` is `None` if this data cannot provide it."""

    metric: str
    card: float
    measured: float | None


@dataclass
class Verification:
    """The outcome of verifying a model; `tkd-hf verify --json` writes it.

    Args:
        model: name of the model.
        commit: the verified commit.
        files: number of files whose hash matches the commit.
        task: name of the task or data set on which the model was evaluated.
        split: the evaluation split.
        examples: number of examples.
        loads: the ways in which the model was loaded; their logits are the same.
        figures: the metrics of the card.
        tolerance: accepted difference between a metric in the card and the measured value.
        text: differences between numbers in the card's text and in the record and report next to it.
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
        """The metrics that differ from the card by more than the tolerance, or that are not finite."""
        return [
            metric
            for metric in self.figures
            if not math.isfinite(metric.card)
            or (metric.measured is not None and not is_at_most(abs(metric.card - metric.measured), self.tolerance))
        ]

    def check(self) -> None:
        """Check that the card matches the measurements.

        Raises:
            CardMismatch: if it does not. The message lists the differences.
        """
        problems = [
            f"{metric.metric} {metric.card:g}, but {number(metric.measured)} was measured" for metric in self.false
        ]
        problems += self.text
        if problems:
            raise CardMismatch(f"the card of {self.model} is wrong: it says {'; '.join(problems)}")

    def to_dict(self) -> dict:
        """Return the outcome as a dictionary for JSON."""
        return asdict(self)


@accepts(VerifyOptions)
def verify(options: VerifyOptions) -> Verification:
    """Download a model from the Hub into a fresh cache, and compare it with its commit and its card.

    Three things are checked: the hash of every file; that the model gives the same logits with this package and in a
    process without it (`trust_remote_code=True`); and the metrics that the card states, on the data that it names. An
    adapter is merged into its base model before it is evaluated.

    The metrics are not judged here. Call `Verification.check` on the result.

    Raises:
        InputError: if the model cannot be downloaded, if its card has no metrics for this data, or if the repository
            contains source files that differ from this package's.
        CardMismatch: if a file differs from the commit, or if the model does not load or gives other logits without
            this package.

    Example:

    ```python
    from tkd_hf import DataArguments, verify

    result = verify("my-org/sst2-3l", DataArguments(task="sst2"))
    result.check()  # CardMismatch if a metric of the card is wrong
    ```
    """
    model = options.model
    data = options.data or DataArguments(task=claimed_task(model))
    with tempfile.TemporaryDirectory() as folder:
        snapshot = fetch_snapshot(model, Path(folder, "hub"))
        untrusted = untrusted_code(snapshot)
        if untrusted and not options.trust_remote_code:
            raise InputError(
                f"{model} contains source files that differ from this package's: {', '.join(untrusted)}; read them, "
                "and add --trust-remote-code if you trust them"
            )
        model_folder = str(_merged_folder(snapshot, Path(folder, "merged")))
        examples, task = load_split(data, "eval", fallback_label_names=label_names(runner_config(model_folder)))
        claims = _claims_for(task, read_claims(snapshot.folder))
        if not claims:
            raise InputError(
                f"the card of {model} has no metrics for split {task.eval_split!r} of {task.name}; name the card's "
                "data with --task or --dataset"
            )
        if not {claim.metric for claim in claims} & set(task.metrics):
            raise InputError(
                f"the card of {model} states {', '.join(claim.metric for claim in claims)} for {task.name}, but only "
                f"{', '.join(task.metrics)} can be measured"
            )
        loads = _load_both_ways(snapshot, model_folder, task, first_texts(examples, COMPARED_TEXTS))
        evaluation = evaluate(model_folder, data, batch_size=options.batch_size)
        text_differences = differing_numbers(snapshot.folder, snapshot.repo_id)
    measured = evaluation.models[0].metrics
    return Verification(
        model=model,
        commit=snapshot.commit,
        files=snapshot.files,
        task=task.name,
        split=task.eval_split,
        examples=len(examples),
        loads=loads,
        figures=[CheckedMetric(claim.metric, claim.value, measured.get(claim.metric)) for claim in claims],
        tolerance=options.tolerance,
        text=text_differences,
    )


def claimed_task(model: str) -> str:
    """Return the GLUE task on which the card of a model on the Hub reports metrics.

    Raises:
        InputError: if the card cannot be downloaded, or if it names no GLUE task or several.
    """
    name, revision = split_revision(model)
    check_repo_id(name)
    with hub_errors(f"fetch the card of {model}", "nothing was verified"):
        card = hf_hub_download(name, "README.md", revision=revision)
    claims = read_claims(Path(card).parent)
    tasks = [task.name for task in TASKS.values() if _claims_for(task, claims)]
    if len(tasks) != 1:
        datasets = ", ".join(sorted({claim.dataset for claim in claims}))
        raise InputError(f"the card of {model} has metrics for {datasets}; name the data with --task or --dataset")
    return tasks[0]


def differing_numbers(folder: Path, repo_id: str) -> list[str]:
    """Compare the numbers in a card's text with those of a card that is regenerated from the record and report.

    Text that people wrote is the same in both cards. If another version of this package wrote the record, nothing is
    compared, because its card may be worded differently.

    Args:
        folder: the folder of the model.
        repo_id: its Hub id.

    Returns:
        One sentence per difference.
    """
    _, text = read_card((folder / CARD).read_text(encoding="utf-8"))
    record = read_record(folder)
    if record is None or record.software.get("tkd-hf") != describe_software()["tkd-hf"]:
        return []
    with tempfile.TemporaryDirectory() as temporary_folder:
        copy = Path(temporary_folder, repo_id.rpartition("/")[2])

        def copy_or_link(file: str, target: str) -> None:
            if os.path.relpath(target, copy) in CARD_SOURCES:  # a card is not made of links
                shutil.copyfile(file, target)
            else:  # weights are large
                os.symlink(os.path.realpath(file), target)

        shutil.copytree(folder, copy, copy_function=copy_or_link)
        _, regenerated = read_card(write_card(copy, repo_id))
    return _differences(_numbers(text), _numbers(regenerated))


def _numbers(text: str) -> list[tuple[str, str]]:
    """Return each number of a text with its line; numbers inside names do not count."""
    return [(number, line.strip()) for line in text.splitlines() for number in _NUMBER.findall(line)]


def _differences(card: list[tuple[str, str]], regenerated: list[tuple[str, str]]) -> list[str]:
    card_numbers = [number for number, _ in card]
    expected_numbers = [number for number, _ in regenerated]
    operations = difflib.SequenceMatcher(None, card_numbers, expected_numbers, autojunk=False).get_opcodes()
    differences = []
    for kind, start, end, expected_start, expected_end in operations:
        if kind == "equal":
            continue
        actual = ", ".join(card_numbers[start:end]) or "nothing"
        expected = ", ".join(expected_numbers[expected_start:expected_end]) or "nothing"
        _, line = (card[start:end] or regenerated[expected_start:expected_end])[0]
        differences.append(f"{actual}, but its record says {expected} ({line!r})")
    return differences


def _claims_for(task: Task, claims: list[Claim]) -> list[Claim]:
    """Select the claims about a task's evaluation split; a claim without a split counts as one about that split."""
    return [claim for claim in claims if claim.dataset == task.name and claim.split in (None, task.eval_split)]


def _merged_folder(snapshot: Snapshot, folder: Path) -> Path:
    """Return the folder of a complete model; an adapter is merged with its base into the given folder."""
    if snapshot.base is None:
        return snapshot.folder
    merge_adapter(snapshot.folder, folder, base=str(snapshot.base.folder))
    return folder


def _load_both_ways(snapshot: Snapshot, model_folder: str, task: Task, texts: list[tuple[str, ...]]) -> list[str]:
    """Load the model with this package and without it, and check that the logits are the same.

    Raises:
        CardMismatch: if they differ.
    """
    runner = load_runner(model_folder, task.problem_type)
    if runner.backend in BACKENDS and not BACKENDS[runner.backend].loaded_by_transformers:
        return [runner.backend]
    auto_class = classifier_class(runner.config).__name__
    remote_logits = logits_without_package(snapshot, auto_class, texts)
    for text, remote in zip(texts, remote_logits, strict=True):
        local = runner(runner.tokenizer(*text, truncation=True, return_tensors="pt")).float().cpu()
        if local.shape != remote.shape or not torch.allclose(local, remote, rtol=1e-3, atol=1e-3):
            raise CardMismatch(
                f"{snapshot.repo_id} gives other logits without tkd_hf: for {' / '.join(text)!r} {remote.tolist()} "
                f"instead of {local.tolist()}"
            )
    return ["with tkd_hf", "with trust_remote_code=True"]
