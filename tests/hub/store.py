"""The data of the test Hub: repositories, commits, files, xet storage, and the rules for cards and ignored files."""

import hashlib
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory


RELATIONS = {"adapter", "merge", "quantized", "finetune"}
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class Refused(Exception):
    """A response with an error status.

    Args:
        status: the HTTP status.
        message: the error message.
        code: value of the header `X-Error-Code`.
        expected: whether a correct client may cause this response; if not, it counts as a failure of the test.
        content: further fields of the response body.
    """

    def __init__(self, status: int, message: str, code: str | None = None, expected: bool = False, **content):
        self.status, self.message, self.code, self.expected, self.content = status, message, code, expected, content


@dataclass
class Blob:
    """A file of a commit; `sha256` is set for files in LFS."""

    content: bytes
    sha256: str | None = None

    @property
    def oid(self) -> str:
        """Git's hash of the file; for a file in LFS, the hash of its pointer file."""
        stored = self.content
        if self.sha256:
            stored = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(stored)}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    def entry(self, path: str) -> dict:
        lfs = {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}} if self.sha256 else {}
        return {"type": "file", "path": path, "oid": self.oid, "size": len(self.content), **lfs}


@dataclass
class Commit:
    """A commit: its files, its parent and its message."""

    files: dict[str, Blob]
    parent: str | None
    summary: str

    @property
    def sha(self) -> str:
        tree = [(path, blob.oid) for path, blob in sorted(self.files.items())]
        return hashlib.sha1(repr((tree, self.parent, self.summary)).encode()).hexdigest()


@dataclass
class Repo:
    """A repository: its commits, and its references to them."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.move("refs/heads/main", Commit({".gitattributes": Blob(ATTRIBUTES)}, None, "initial commit"))

    def move(self, ref: str, commit: Commit) -> str:
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit.sha

    def history(self, ref: str = "refs/heads/main") -> list[str]:
        """Return the messages of a reference's commits, the latest first."""
        messages, sha = [], self.refs[ref]
        while sha:
            messages.append(self.commits[sha].summary)
            sha = self.commits[sha].parent
        return messages

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.commits[self.resolve(revision)].files.items()}

    def resolve(self, revision: str) -> str:
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision in self.commits:
            return revision
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound", expected=True)


def is_ignored(pattern: str, path: str) -> bool:
    """Whether a line of a `.gitignore` matches a path; only the simple patterns are supported."""
    if pattern.endswith("/"):
        return f"/{path}".startswith(pattern)
    return fnmatch(f"/{path}", pattern) if pattern.startswith("/") else fnmatch(path.rpartition("/")[2], pattern)


def metadata_errors(content: dict):
    """Yield the errors that the Hub would report for a card's metadata, for the fields that this project writes."""
    for name in ("tags", "datasets", "metrics"):
        if not isinstance(content.get(name, []), list):
            yield f'"{name}" must be an array'
    for name in ("license", "library_name", "pipeline_tag"):
        if not isinstance(content.get(name, ""), str):
            yield f'"{name}" must be a string'
    if content.get("base_model_relation", "finetune") not in RELATIONS:
        yield f'"base_model_relation" must be one of {sorted(RELATIONS)}'
    for model in content.get("model-index", []):
        for result in model["results"] if "name" in model else [{}]:
            if not {"type", "name"} <= set(result.get("dataset", {})) or "task" not in result:
                yield '"model-index" needs a name, and a task and a dataset for each result'


class XetStorage:
    """The storage that hf_xet uploads to and downloads from; hf_xet accepts a `local://` folder instead of a server.

    The xet server tells the Hub which xet hash belongs to which SHA-256. A folder cannot do that, so a test announces
    the files that may be uploaded.

    Args:
        url: address of the storage.
    """

    def __init__(self, url: str):
        self.url = url
        self.hashes: dict[str, str] = {}

    def expect(self, *files: Path) -> None:
        """Announce files that may be uploaded."""
        import hf_xet

        for file, info in zip(files, hf_xet.hash_files([str(file) for file in files]), strict=True):
            self.hashes[hashlib.sha256(file.read_bytes()).hexdigest()] = info.hash

    def content(self, oid: str) -> bytes:
        """Return the content of an uploaded file, by its SHA-256."""
        import hf_xet

        with TemporaryDirectory() as folder:
            file = Path(folder, "file")
            info = hf_xet.XetFileInfo(self.hashes[oid], None)
            with hf_xet.XetSession().new_file_download_group(endpoint=self.url) as group:
                group.start_download_file(info, str(file))
            return file.read_bytes()
