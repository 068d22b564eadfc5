"""What lies on the Hub of the tests: repositories, their commits and files."""

import hashlib
from dataclasses import dataclass, field


ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class Refused(Exception):
    """An answer other than 200. What a client may meet in good order is no failure: `expected`."""

    def __init__(self, status: int, message: str, code: str | None = None, expected: bool = False, **content):
        self.status, self.message, self.code, self.expected, self.content = status, message, code, expected, content


@dataclass
class Blob:
    """A file of a commit; `sha256` of what lies in LFS."""

    content: bytes
    sha256: str | None = None

    @property
    def oid(self) -> str:
        """What git calls it: of an LFS file the hash of its pointer."""
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
    """A tree and what it came from."""

    files: dict[str, Blob]
    parent: str | None
    summary: str

    @property
    def sha(self) -> str:
        tree = [(path, blob.oid) for path, blob in sorted(self.files.items())]
        return hashlib.sha1(repr((tree, self.parent, self.summary)).encode()).hexdigest()


@dataclass
class Repo:
    """A repository: its refs and commits."""

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
        """The summaries of a ref's commits, the last one first."""
        found, sha = [], self.refs[ref]
        while sha:
            found.append(self.commits[sha].summary)
            sha = self.commits[sha].parent
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.commits[self.resolve(revision)].files.items()}

    def resolve(self, revision: str) -> str:
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision in self.commits:
            return revision
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound", expected=True)
