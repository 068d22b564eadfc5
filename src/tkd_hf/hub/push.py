"""Files to a repository of the Hub, in one commit, or none where nothing has changed."""

import hashlib
import io
import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from ..errors import InputError, first_line


@dataclass
class PushResult:
    """What came of a push.

    Args:
        repo_id: where it went.
        url: where to look at it: the pull request, or the branch.
        revision: the branch, or the reference of the pull request.
        commit: the commit that holds the files now.
        private: whether the repository is seen by its owners alone.
        changed: the files of the commit that was made; none if all were there already, and then no commit was made.
        left: files of the repository that are not among those pushed, and stay as they were.
        tag: the version that the commit is called.
    """

    repo_id: str
    url: str
    revision: str
    commit: str
    private: bool
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    tag: str | None = None


def push_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    private: bool = True,
    revision: str = "main",
    tag: str | None = None,
    create_pr: bool = False,
    message: str = "Upload with tkd-hf",
) -> PushResult:
    """Pushes files to a repository of models, which is made if need be. The token is the one that `hf auth login` set.

    What the branch holds already is not sent again. All that differs is one commit on top of the branch as it was
    found, so that the branch has either all of it or, after any failure, none. Large files that arrived before a
    failure are kept by the Hub, and need not be sent again.

    Args:
        files: what to push, by path in the repository: files, or contents.
        repo_id: `org/name`.
        private: whether a new repository is seen by its owners alone; one that exists stays as it is.
        revision: the branch; it is made if need be.
        tag: a name for the commit, such as `v1`.
        create_pr: open a pull request instead of writing to the branch.
        message: of the commit.

    Raises:
        InputError: if the Hub refuses or cannot be reached, with what to do; or if the tag is taken.
    """
    check_repo_id(repo_id)
    if create_pr and (tag or revision != "main"):
        raise InputError(
            f"a pull request is made to main, and what it proposes has no version yet: drop "
            f"{f'the tag {tag}' if tag else f'the revision {revision}'}, or create_pr"
        )
    api = HfApi()
    with hub_errors(f"push to {repo_id}", f"{repo_id} is as it was before; the same command tries it again"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        is_private = bool(api.repo_info(repo_id).private)
        head, taken = _head(api, repo_id, revision, tag)
        there = remote_hashes(api, repo_id, head)
        changed = {path: file for path, file in files.items() if not _same(file, there.get(path))}
        if tag and taken and (changed or taken != head):
            raise InputError(f"{repo_id} has a version {tag} with other content; choose another tag")
        left = sorted(set(there) - set(files) - {".gitattributes"})
        branch = f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision != "main" else "")
        pushed = PushResult(repo_id, branch, revision, head, is_private, list(changed), left, tag)
        if changed:
            operations = [CommitOperationAdd(path, file) for path, file in changed.items()]
            if not create_pr and revision != "main":
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                revision=revision,
                create_pr=create_pr,
                parent_commit=None if create_pr else head,
            )
            pushed.commit = commit.oid
            if create_pr:
                pushed.url, pushed.revision = commit.pr_url, commit.pr_revision
    if tag and not taken:
        with hub_errors(f"tag {repo_id}", "its files were pushed; the same command tags them"):
            api.create_tag(repo_id, tag=tag, revision=pushed.commit)
    return pushed


def check_repo_id(repo_id: str) -> None:
    """`InputError` for what cannot be `org/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no Hub id: {first_line(error)}") from None
    if "/" not in repo_id:
        raise InputError(f"{repo_id!r} is no Hub id: write it with its owner, as in org/{repo_id}")


def remote_hashes(api: HfApi, repo_id: str, revision: str) -> dict[str, str]:
    """Of each file in a commit its SHA-256 where it lies in LFS, otherwise git's hash of it."""
    entries = api.list_repo_tree(repo_id, revision=revision, recursive=True)
    return {one.path: one.lfs.sha256 if one.lfs else one.blob_id for one in entries if isinstance(one, RepoFile)}


def file_hash(file: Path | bytes, like: str) -> str:
    """A file's hash of the kind of another: SHA-256, of 64 digits, or git's, of 40."""
    size = len(file) if isinstance(file, bytes) else file.stat().st_size
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % size)
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def hub_errors(action: str, hint: str):
    """What goes wrong between here and the Hub becomes one line, without addresses: those of uploads are signed."""
    try:
        yield
    except InputError:
        raise
    except (HfHubHTTPError, HTTPError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot {action}: {_reason(error)}; {hint}") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, (HTTPError, OSError)):
        error = error.__cause__  # an upload wraps what went wrong
    if _of_xet(error):
        return f"xet's storage was not reached ({_one_line(str(error))}); HF_HUB_DISABLE_XET=1 goes without xet"
    if not isinstance(error, HfHubHTTPError):
        kind = "the connection failed" if isinstance(error, (HTTPError, ConnectionError)) else type(error).__name__
        return f"{kind} ({_one_line(str(error))})"
    status, said = error.response.status_code, error.server_message or ""
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        return (
            f"the Hub finds no such repository, or does not know you ({status}); check the name, and log in with "
            "`hf auth login` or HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"there is no such revision ({status})"
    if status == 403:
        return "your token may not write there (403); take one with the right to write, or another owner"
    return f"the Hub answered {status} {_one_line(said)}".strip()


def _of_xet(error: BaseException) -> bool:
    """Whether it is of hf_xet, which raises bare errors of Python's.

    Those of sockets are subclasses, those of HTTP have classes of their own, and an upload over LFS names a cause.
    """
    bare = type(error) in (ConnectionError, TimeoutError, RuntimeError) and error.__cause__ is None
    return not constants.HF_HUB_DISABLE_XET and (bare or type(error).__module__ == "hf_xet")


def _one_line(text: str) -> str:
    return re.sub(r"https?://[^ ]+", "…", " ".join(text.split()))


def _head(api: HfApi, repo_id: str, revision: str, tag: str | None) -> tuple[str, str | None]:
    """The commit that the branch is at, or will begin at, and the one that the tag is at."""
    refs = api.list_repo_refs(repo_id)
    branches = {branch.name: branch.target_commit for branch in refs.branches}
    tags = {one.name: one.target_commit for one in refs.tags}
    return branches.get(revision) or branches["main"], tags.get(tag)


def _same(file: Path | bytes, there: str | None) -> bool:
    return there is not None and file_hash(file, there) == there
