"""A model as it lies on the Hub: fetched anew, its files' hashes, what its card claims, and whether it loads alone."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import HfApi, ModelCard, snapshot_download

from ..errors import CardMismatch, InputError, first_line
from ..files import read_json
from ..model_names import split_revision
from ..registration import TKDConfig
from .folder import CARD, SOURCE_FILES
from .push import check_repo_id, hub_errors


@dataclass
class Snapshot:
    """A commit of a repository, in a cache of its own.

    Args:
        repo_id: the repository.
        commit: the commit.
        folder: its files.
        cache: the cache, which `HF_HUB_CACHE` would name.
        files: how many files there are.
        base: of an adapter, the model that it adapts.
    """

    repo_id: str
    commit: str
    folder: Path
    cache: Path
    files: int
    base: "Snapshot | None" = None


@dataclass(frozen=True)
class Claim:
    """A figure in the metadata of a card (`model-index`)."""

    metric: str
    value: float
    dataset: str
    split: str | None


def fetch_snapshot(model: str, cache: Path) -> Snapshot:
    """Downloads a commit into an empty cache, and compares the hash of each file with the one in the commit.

    The base of an adapter is fetched, too.

    Args:
        model: `org/name` or `org/name@revision`.
        cache: the cache.

    Raises:
        InputError: if it cannot be fetched.
        CardMismatch: if a file is missing, or is not the one of the commit.
    """
    name, revision = split_revision(model)
    check_repo_id(name)
    api = HfApi()
    with hub_errors(f"fetch {model}", "nothing was verified"):
        commit = api.repo_info(name, revision=revision).sha
        folder = Path(snapshot_download(name, revision=commit, cache_dir=cache))
        found = api.verify_repo_checksums(name, revision=commit, cache_dir=cache)
    wrong = [f"{one['path']} ({one['actual'][:8]} instead of {one['expected'][:8]})" for one in found.mismatches]
    wrong += [f"{path} (missing)" for path in found.missing_paths]
    if wrong:
        raise CardMismatch(f"{model} is not what its commit {commit[:8]} says: {', '.join(wrong)}")
    return Snapshot(name, commit, folder, cache, found.checked_count, _fetch_base(folder, cache))


def _fetch_base(adapter: Path, cache: Path) -> Snapshot | None:
    path = adapter / "adapter_config.json"
    if not path.exists():
        return None
    named = read_json(path, hint="push it anew")
    base, revision = named.get("base_model_name_or_path"), named.get("revision")
    try:
        check_repo_id(base or "")
    except InputError as error:
        raise InputError(
            f"the base of the adapter cannot be fetched ({error}); set base_model_name_or_path in its "
            "adapter_config.json to a Hub id, and push it anew"
        ) from None
    return fetch_snapshot(base + (f"@{revision}" if revision else ""), cache)


def read_claims(folder: Path) -> list[Claim]:
    """What a card's metadata says that was measured.

    Raises:
        InputError: if there is no card, its metadata is damaged, or it claims nothing.
    """
    path = folder / CARD
    if not path.exists():
        raise InputError("there is no card (README.md) to verify")
    try:
        results = ModelCard.load(path).data.eval_results or []
    except Exception as error:  # of YAML, or of what huggingface_hub makes of it
        raise InputError(f"the metadata of the card cannot be read: {first_line(error)}") from error
    found = [Claim(one.metric_type, one.metric_value, one.dataset_name, one.dataset_split) for one in results]
    if not found:
        raise InputError("the card's metadata (model-index) has no figures to verify")
    return found


def untrusted_code(snapshot: Snapshot) -> list[str]:
    """The source files that loading a model would run and that are not this package's own; an adapter's base's, too."""
    return _foreign_in(snapshot.folder) + (untrusted_code(snapshot.base) if snapshot.base else [])


def _foreign_in(folder: Path) -> list[str]:
    own = Path(sys.modules[TKDConfig.__module__].__file__).parent
    named = read_json(folder / "config.json", hint="push it anew").get("auto_map", {}).values()
    found = [path.relative_to(folder) for path in folder.rglob("*.py")]
    foreign = [
        path.as_posix()
        for path in found
        if path.as_posix() not in SOURCE_FILES or (own / path).read_bytes() != (folder / path).read_bytes()
    ]
    return sorted(foreign) + sorted({name for name in named if "--" in name})


_WITHOUT_THE_PACKAGE = """
import importlib.abc, json, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tkd_hf":
            raise ModuleNotFoundError("tkd_hf is not installed here")

sys.meta_path.insert(0, Hidden())
import torch, transformers

repo_id, commit, auto_class, base, base_commit = sys.argv[1:]
about = {"revision": commit, "trust_remote_code": True}
tokenizer = transformers.AutoTokenizer.from_pretrained(repo_id, **about)
kind = getattr(transformers, auto_class)
if base:
    from peft import PeftModel
    config = transformers.AutoConfig.from_pretrained(repo_id, **about)
    found = {"revision": base_commit, "trust_remote_code": True, "config": config, "ignore_mismatched_sizes": True}
    model = PeftModel.from_pretrained(kind.from_pretrained(base, **found), repo_id, revision=commit).eval()
else:
    model = kind.from_pretrained(repo_id, **about).eval()
texts = json.load(sys.stdin)
with torch.no_grad():
    answers = [model(**tokenizer(*text, truncation=True, return_tensors="pt")).logits.tolist() for text in texts]
print(json.dumps(answers))
"""


def logits_without_package(snapshot: Snapshot, auto_class: str, texts: Sequence[tuple[str, ...]]) -> list[torch.Tensor]:
    """The logits of texts, one by one, in a process that loads the model by its id, without tkd_hf and the network.

    The process runs the repository's code, if it brings any, and is not given the token.

    Raises:
        CardMismatch: if it cannot be loaded, with the last line of what was said.
    """
    secret = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"}
    environment = {name: value for name, value in os.environ.items() if name not in secret}
    home = str(snapshot.cache.parent / "home")
    base = [snapshot.base.repo_id, snapshot.base.commit] if snapshot.base else ["", ""]
    environment |= {"HF_HOME": home, "HF_HUB_CACHE": str(snapshot.cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_THE_PACKAGE, snapshot.repo_id, snapshot.commit, auto_class, *base],
        input=json.dumps(texts),
        env=environment | {"HF_MODULES_CACHE": f"{home}/modules"},
        cwd=snapshot.cache,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise CardMismatch(f"{snapshot.repo_id} does not load without tkd_hf (trust_remote_code=True): {reason}")
    return [torch.tensor(logits) for logits in json.loads(done.stdout.splitlines()[-1])]
