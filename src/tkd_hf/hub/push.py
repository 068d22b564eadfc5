"""Upload files to a Hub repository in a single commit; skip the commit if nothing changed."""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from ..core.errors import InputError, first_line
from ..records.redaction import contains_token


CARD = "README.md"
REQUEST_SECONDS = 20.0  # limit of silence within one request; huggingface_hub retries a request up to five times


@dataclass
class PushResult:
    """The outcome of a push.

    Args:
        repo_id: the repository.
        url: web address of the pull request or of the branch.
        revision: the branch, or the reference of the pull request.
        commit: the commit that contains the files now.
        private: whether only the repository's owners can see it.
        changed: the files in the new commit; empty if the repository had all of them already, so that no commit was
            necessary.
        left: files of the repository that were not part of the push and stay unchanged.
        tag: the tag on the commit.
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
    guard: Callable[[bytes], None] | None = None,
) -> PushResult:
    """Upload files to a model repository, and create the repository if it does not exist.

    Files that the branch already contains are not uploaded again. All changed files go into one commit whose parent is
    the branch's current head, so after a failure the branch contains either all changes or none. The Hub keeps large
    files that were uploaded before a failure; a second attempt skips them.

    The token is the one that `hf auth login` stored, or `HF_TOKEN`.

    Args:
        files: file paths or contents, by path in the repository.
        repo_id: `org/name`.
        private: whether a new repository is private; the visibility of an existing one does not change.
        revision: the branch, which is created if it does not exist.
        tag: a tag for the commit, such as `v1`.
        create_pr: open a pull request to `main` instead of writing to the branch.
        message: the commit message.
        guard: called with the card that the branch contains and that this push would replace; it raises an
            `InputError` if the card must stay. Not called for a pull request, where people decide.

    Raises:
        InputError: if the Hub refuses the push or cannot be reached (the message says what to do), if the tag exists
            with other content, or if `create_pr` is combined with a tag or a branch.
    """
    check_repo_id(repo_id)
    if create_pr and (tag or revision != "main"):
        conflict = f"the tag {tag}" if tag else f"the revision {revision}"
        raise InputError(
            f"a pull request goes to main and cannot be tagged before it is merged: drop {conflict}, or create_pr"
        )
    if contains_token(message):
        raise InputError("the commit message contains text that looks like a Hub token; leave it out, and revoke it")
    api = HfApi()
    with hub_errors(f"push to {repo_id}", f"{repo_id} is unchanged; run the same command to try again"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        is_private = bool(api.repo_info(repo_id, timeout=REQUEST_SECONDS).private)
        head, tagged_commit = _head_and_tag(api, repo_id, revision, tag)
        existing = remote_hashes(api, repo_id, head)
        changed = {path: file for path, file in files.items() if not _is_same(file, existing.get(path))}
        if tag and tagged_commit and (changed or tagged_commit != head):
            raise InputError(f"{repo_id} already has a tag {tag} with other content; choose another tag")
        if guard and not create_pr and CARD in changed and CARD in existing:
            guard(Path(api.hf_hub_download(repo_id, CARD, revision=head)).read_bytes())
        left = sorted(set(existing) - set(files) - {".gitattributes"})
        url = f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision != "main" else "")
        result = PushResult(repo_id, url, revision, head, is_private, list(changed), left, tag)
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
            result.commit = commit.oid
            if create_pr:
                result.url, result.revision = commit.pr_url or url, commit.pr_revision or revision
    if tag and not tagged_commit:
        with hub_errors(f"tag {repo_id}", "its files were pushed; run the same command to add the tag"):
            api.create_tag(repo_id, tag=tag, revision=result.commit)
    return result


def check_repo_id(repo_id: str) -> None:
    """Check that a repository id has the form `org/name`.

    Raises:
        InputError: if it has not.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is not a Hub id: {first_line(error)}") from None
    if "/" not in repo_id:
        raise InputError(f"{repo_id!r} is not a Hub id: add its owner, as in org/{repo_id}")


def remote_hashes(api: HfApi, repo_id: str, revision: str) -> dict[str, str]:
    """Return the hash of each file in a commit, by path: SHA-256 for files in LFS, otherwise git's hash."""
    entries = api.list_repo_tree(repo_id, revision=revision, recursive=True)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}


def file_hash(file: Path | bytes, like: str) -> str:
    """Return the hash of a file, computed in the same way as another hash.

    Args:
        file: a path or the content.
        like: a hash from the Hub. With 64 digits it is a SHA-256, with 40 it is git's hash.
    """
    size = len(file) if isinstance(file, bytes) else file.stat().st_size
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % size)
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def hub_errors(action: str, hint: str) -> Iterator[None]:
    """Turn errors of the network and the Hub into an `InputError` of one line, and limit the time of each request.

    URLs are removed from the message because upload URLs are signed. A Hub that accepts a connection and then stays
    silent would otherwise hold the command for ever: huggingface_hub's client has no limit of its own.

    Args:
        action: the action that failed, for the message "cannot ACTION".
        hint: how to go on, or the state of the repository.
    """
    client = get_session()
    limit, client.timeout = client.timeout, REQUEST_SECONDS
    try:
        yield
    except InputError:
        raise
    except (HfHubHTTPError, HTTPError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot {action}: {_reason(error)}; {hint}") from None
    finally:
        client.timeout = limit


def _reason(error: BaseException) -> str:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, (HTTPError, OSError)):
        error = error.__cause__  # huggingface_hub wraps errors of uploads
    if _is_from_xet(error):
        return f"xet storage cannot be reached ({_one_line(str(error))}); set HF_HUB_DISABLE_XET=1 to do without xet"
    if not isinstance(error, HfHubHTTPError):
        kind = "the connection failed" if isinstance(error, (HTTPError, ConnectionError)) else type(error).__name__
        return f"{kind} ({_one_line(str(error))})"
    status, message = error.response.status_code, error.server_message or ""
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        return (
            f"the Hub has no such repository, or your token cannot see it ({status}); check the name, and log in with "
            "`hf auth login` or HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no such revision ({status})"
    if status == 403:
        return "your token has no write access there (403); use a token with write access, or another owner"
    return f"the Hub answered {status} {_one_line(message)}".strip()


def _is_from_xet(error: BaseException) -> bool:
    """Whether hf_xet raised an error.

    hf_xet raises Python's built-in exception types. Sockets raise subclasses of those, the HTTP client has its own
    types, and an upload through LFS sets a cause.
    """
    is_plain = type(error) in (ConnectionError, TimeoutError, RuntimeError) and error.__cause__ is None
    return not constants.HF_HUB_DISABLE_XET and (is_plain or type(error).__module__ == "hf_xet")


def _one_line(text: str) -> str:
    return re.sub(r"https?://[^ ]+", "…", " ".join(text.split()))


def _head_and_tag(api: HfApi, repo_id: str, revision: str, tag: str | None) -> tuple[str, str | None]:
    """Return the commit that the branch points to, or will start from, and the commit that the tag points to."""
    refs = api.list_repo_refs(repo_id)
    branches = {branch.name: branch.target_commit for branch in refs.branches}
    tags = {reference.name: reference.target_commit for reference in refs.tags}
    return branches.get(revision) or branches["main"], tags.get(tag) if tag else None


def _is_same(file: Path | bytes, remote_hash: str | None) -> bool:
    return remote_hash is not None and file_hash(file, remote_hash) == remote_hash
