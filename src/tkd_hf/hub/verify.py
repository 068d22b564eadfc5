"""Verify a model on the Hub: file hashes, the results that its card claims, and loading without tkd-hf."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download

from ..core.errors import CardMismatch, InputError, first_line
from ..core.files import read_json
from ..core.names import split_revision
from ..models import configuration_tkd
from . import load_without_package
from .folder import CARD, SOURCE_FILES
from .push import REQUEST_SECONDS, check_repo_id, hub_errors


@dataclass
class Snapshot:
    """A commit of a repository, downloaded into a fresh cache.

    Args:
        repo_id: the repository.
        commit: the commit's hash.
        folder: the folder with its files.
        cache: the cache folder, in the layout of `HF_HUB_CACHE`.
        files: number of files.
        base: the base model, if the repository contains an adapter.
    """

    repo_id: str
    commit: str
    folder: Path
    cache: Path
    files: int
    base: "Snapshot | None" = None


@dataclass(frozen=True)
class Claim:
    """A result that the metadata of a card states (`model-index`)."""

    metric: str
    value: float
    dataset: str
    split: str | None


def fetch_snapshot(model: str, cache: Path) -> Snapshot:
    """Download a commit into an empty cache, and compare the hash of each file with the hash in the commit.

    If the repository contains an adapter, its base model is downloaded and compared as well.

    Args:
        model: `org/name` or `org/name@revision`.
        cache: the cache folder.

    Raises:
        InputError: if the model cannot be downloaded.
        CardMismatch: if a file is missing or differs from the commit.
    """
    name, revision = split_revision(model)
    check_repo_id(name)
    api = HfApi()
    with hub_errors(f"fetch {model}", "nothing was verified"):
        commit = api.repo_info(name, revision=revision, timeout=REQUEST_SECONDS).sha or ""
        folder = Path(snapshot_download(name, revision=commit, cache_dir=cache))
        checksums = api.verify_repo_checksums(name, revision=commit, cache_dir=cache)
    problems = [
        f"{mismatch['path']} ({mismatch['actual'][:8]} instead of {mismatch['expected'][:8]})"
        for mismatch in checksums.mismatches
    ]
    problems += [f"{path} (missing)" for path in checksums.missing_paths]
    if problems:
        raise CardMismatch(f"the files of {model} differ from its commit {commit[:8]}: {', '.join(problems)}")
    return Snapshot(name, commit, folder, cache, checksums.checked_count, _fetch_base(folder, cache))


def _fetch_base(adapter: Path, cache: Path) -> Snapshot | None:
    path = adapter / "adapter_config.json"
    if not path.exists():
        return None
    config = read_json(path, hint="push the adapter again")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    try:
        check_repo_id(base or "")
    except InputError as error:
        raise InputError(
            f"the base model of the adapter cannot be fetched ({error}); set base_model_name_or_path in its "
            "adapter_config.json to a Hub id, and push the adapter again"
        ) from None
    return fetch_snapshot(base + (f"@{revision}" if revision else ""), cache)


def read_claims(folder: Path) -> list[Claim]:
    """Return the results that the metadata of a folder's card states.

    Raises:
        InputError: if there is no card, or if its metadata cannot be read, contains no results, or contains a result
            that is not a number.
    """
    path = folder / CARD
    if not path.exists():
        raise InputError("there is no card (README.md) to verify")
    try:
        results = ModelCard.load(path).data.eval_results or []
    except Exception as error:  # YAML and huggingface_hub raise many types here
        raise InputError(f"the metadata of the card cannot be read: {first_line(error)}") from error
    claims = [
        Claim(result.metric_type, result.metric_value, result.dataset_name, result.dataset_split) for result in results
    ]
    texts = [f"{claim.metric}={claim.value!r}" for claim in claims if not isinstance(claim.value, (int, float))]
    if texts:
        raise InputError(f"the card's metadata (model-index) contains {', '.join(texts)}, which are not numbers")
    if not claims:
        raise InputError("the card's metadata (model-index) contains no results to verify")
    return claims


def untrusted_code(snapshot: Snapshot) -> list[str]:
    """List the source files that loading a model would run and that differ from those of this package.

    If the model is an adapter, the files of its base model are included.
    """
    return _untrusted_files(snapshot.folder) + (untrusted_code(snapshot.base) if snapshot.base else [])


def _untrusted_files(folder: Path) -> list[str]:
    package = Path(configuration_tkd.__file__).parent
    references = read_json(folder / "config.json", hint="push the model again").get("auto_map", {}).values()
    paths = [path.relative_to(folder) for path in folder.rglob("*.py")]
    untrusted = [
        path.as_posix()
        for path in paths
        if path.as_posix() not in SOURCE_FILES or (package / path).read_bytes() != (folder / path).read_bytes()
    ]
    # a reference such as "org/name--module.Class" points to code in another repository
    return sorted(untrusted) + sorted({reference for reference in references if "--" in reference})


def logits_without_package(snapshot: Snapshot, auto_class: str, texts: Sequence[tuple[str, ...]]) -> list[torch.Tensor]:
    """Compute logits as a user without tkd-hf would: in a fresh process, with `trust_remote_code=True`.

    The process is offline and reads the model from the snapshot's cache. It runs the repository's source files, so it
    does not get the Hub token.

    Args:
        snapshot: the downloaded model.
        auto_class: the Auto class to load it with, such as `"AutoModelForSequenceClassification"`.
        texts: texts, or pairs of texts.

    Returns:
        The logits per text; each text is a batch of one.

    Raises:
        CardMismatch: if the model does not load. The message contains the last line of the process's errors.
    """
    token_variables = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"}
    environment = {name: value for name, value in os.environ.items() if name not in token_variables}
    home = str(snapshot.cache.parent / "home")
    environment |= {"HF_HOME": home, "HF_HUB_CACHE": str(snapshot.cache), "HF_HUB_OFFLINE": "1"}
    request: dict[str, object] = {"repo_id": snapshot.repo_id, "commit": snapshot.commit, "texts": texts}
    request |= {"auto_class": auto_class}
    if snapshot.base:
        request |= {"base": snapshot.base.repo_id, "base_commit": snapshot.base.commit}
    process = subprocess.run(
        [sys.executable, "-P", load_without_package.__file__],  # -P: import nothing from the script's own folder
        input=json.dumps(request),
        env=environment | {"HF_MODULES_CACHE": f"{home}/modules"},
        cwd=snapshot.cache,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["the process printed no error"])[-1]
        raise CardMismatch(f"{snapshot.repo_id} does not load without tkd_hf (trust_remote_code=True): {reason}")
    return [torch.tensor(logits) for logits in json.loads(process.stdout.splitlines()[-1])]
