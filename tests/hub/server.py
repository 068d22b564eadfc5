"""A small Hub on loopback, strict about its protocol: the unmodified client of huggingface_hub can talk to it.

What it does not know, or what is ill-formed, it answers with an error and remembers in `failures`, so that a test can
ask at its end whether all was in order. Large files go by LFS, in parts where they are larger than a part, and are
given out by another host, which must not see a token. Trouble can be ordered: see `Fault`.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from .rules import ignores, wrong_metadata
from .store import Blob, Commit, Refused, Repo
from .xet import XetStorage


PART = 200_000  # bytes of a large file that travel together


@dataclass
class Fault:
    """Trouble for the next requests of this kind.

    Args:
        method, place: of the requests: those whose path holds `place`.
        kind: `"cut"`: the connection ends in the middle of the body; or the status of an error, such as 500.
        times: how often.
    """

    method: str
    place: str
    kind: str | int
    times: int = 1


class Hub:
    """The server. `tokens` names the users by token, each of whom may write to the organisations of `members`.

    Example:

        with Hub() as hub:
            ...  # a client with HF_ENDPOINT=hub.url
        assert not hub.failures
    """

    def __init__(self, xet: XetStorage | None = None):
        self.tokens = {"hf_writer": "ann", "hf_stranger": "bob"}
        self.members = {"org": {"ann"}}
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.before: dict[str, Callable] = {}  # what happens just before the next request for a place
        self.requests: list[str] = []
        self.failures: list[str] = []
        self.xet = xet
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}/storage"  # to the client another host

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    def put(self, content: bytes) -> str:
        """Stores a large file; gives its SHA-256."""
        oid = hashlib.sha256(content).hexdigest()
        self.objects[oid] = content
        return oid

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.place in path:
                    fault.times -= 1
                    return fault


def _asked(content: dict, /, **kinds: type) -> list:
    """The named values of a body; all of them must be there, of their kind."""
    for name, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise Refused(400, f"{name} must be {kind.__name__} in {content!r:.200}")
    return [content[name] for name in kinds]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _handle(self):
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault(self.command, path)
        for place in [place for place in self.hub.before if place in path]:
            self.hub.before.pop(place)()
        try:
            body = self._body(cut=fault is not None and fault.kind == "cut")
            if fault:
                raise Refused(fault.kind, "trouble that was ordered", expected=True)
            with self.hub.lock:
                self._route(url.path, body)
        except Refused as refused:
            if not refused.expected:
                self.hub.failures.append(f"{self.command} {path}: {refused.status} {refused.message}")
            codes = {"X-Error-Code": refused.code} if refused.code else {}
            self._json(
                {"error": refused.message, **refused.content},
                refused.status,
                **codes,
                **{"X-Error-Message": refused.message},
            )
        except ConnectionError:
            self.close_connection = True
        except Exception as error:
            self.hub.failures.append(f"{self.command} {path}: {error!r}")
            self._json({"error": repr(error)}, 500)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _body(self, cut: bool) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        if cut:
            self.rfile.read(size // 2)
            self.connection.close()
            raise ConnectionAbortedError
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(size)
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self, path: str, body: bytes):
        for method, pattern, answer in _ROUTES:
            if (found := re.fullmatch(pattern, path)) and self.command in method.split():
                return answer(self, body, **{name: unquote(text) for name, text in found.groupdict().items() if text})
        raise Refused(404, "no such place in the protocol")

    def _answer(self, content: bytes, status: int = 200, kind: str = "application/octet-stream", **headers: str):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content, status: int = 200, **headers: str):
        self._answer(json.dumps(content).encode(), status, "application/json", **headers)

    def _read(self, body: bytes) -> dict:
        try:
            return json.loads(body)
        except ValueError:
            raise Refused(400, f"no JSON: {body[:80]!r}") from None

    # who is asking, and what they may see

    def _user(self) -> str | None:
        given = self.headers.get("Authorization")
        if given is None:
            return None
        kind, _, token = given.partition(" ")
        if kind != "Bearer" or token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header", expected=True)
        return self.hub.tokens[token]

    def _may_write(self, repo_id: str) -> bool:
        owner, user = repo_id.split("/")[0], self._user()
        return user is not None and (user == owner or user in self.hub.members.get(owner, ()))

    def _repo(self, repo_id: str, write: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self._may_write(repo_id)):
            # as on the Hub: who is not known learns nothing of what is private
            raise Refused(404 if self._user() else 401, "Repository not found", "RepoNotFound", expected=True)
        if write and not self._may_write(repo_id):
            raise Refused(403, "you don't have the rights to write here", expected=True)
        return repo

    # answers

    def whoami(self, body):
        user = self._user()
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header", expected=True)
        orgs = [{"type": "org", "name": name} for name, users in self.hub.members.items() if user in users]
        self._json({"type": "user", "name": user, "orgs": orgs, "auth": {"type": "access_token"}})

    def create(self, body):
        content = self._read(body)
        [name] = _asked(content, name=str)
        unknown = set(content) - {"name", "organization", "visibility", "private", "type"}
        if unknown or content.get("visibility") not in (None, "private", "public"):
            raise Refused(400, f"create: {content}")
        user = self._user()
        repo_id = f"{content.get('organization') or user}/{name}"
        if user is None:
            raise Refused(401, "log in first", expected=True)
        if not self._may_write(repo_id):
            raise Refused(403, "you may not create a repository there", expected=True)
        url = f"{self.hub.url}/{repo_id}"
        if repo_id in self.hub.repos:
            raise Refused(409, "You already created this model repo", expected=True, url=url)
        private = content.get("visibility") == "private" or content.get("private") is True
        self.hub.repos[repo_id] = Repo(private)
        self._json({"url": url, "name": repo_id, "id": repo_id})

    def harnesses(self, body):
        raise Refused(404, "no list of agents, which a client takes in good part", expected=True)

    def validate_yaml(self, body):
        text, _kind = _asked(self._read(body), content=str, repoType=str)
        found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        if not found:
            return self._json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        try:
            content = yaml.safe_load(found[1])
            errors = list(wrong_metadata(content)) if isinstance(content, dict) else ["metadata must be a mapping"]
        except yaml.YAMLError as error:
            errors = [str(error)]
        answer = {"errors": [{"message": message} for message in errors], "warnings": []}
        self._json(answer, 400 if errors else 200)

    def info(self, body, repo_id, revision="main"):
        repo = self._repo(repo_id)
        sha = repo.resolve(revision)
        files = [{"rfilename": path} for path in repo.commits[sha].files]
        self._json({"_id": "1", "id": repo_id, "sha": sha, "private": repo.private, "siblings": files, "tags": []})

    def refs(self, body, repo_id):
        found = {"refs/heads/": [], "refs/tags/": [], "refs/pr/": []}
        for ref, sha in self._repo(repo_id).refs.items():
            prefix = next(prefix for prefix in found if ref.startswith(prefix))
            found[prefix].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha})
        branches, tags, requests = found.values()
        more = {"pullRequests": requests} if self.query.get("include_prs") else {}
        self._json({"branches": branches, "tags": tags, "converts": [], **more})

    def tree(self, body, repo_id, revision, folder=""):
        repo = self._repo(repo_id)
        files = repo.commits[repo.resolve(revision)].files
        prefix = f"{folder}/" if folder else ""
        within = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        if folder and not within:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound", expected=True)
        folders = {path.rpartition("/")[0] for path in within if "/" in path.removeprefix(prefix)}
        entries = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        recursive = self.query.get("recursive", "").lower() in ("true", "1")
        entries += [blob.entry(path) for path, blob in within.items() if recursive or "/" not in path[len(prefix) :]]
        self._json(entries)

    def paths_info(self, body, repo_id, revision):
        repo = self._repo(repo_id)
        files = repo.commits[repo.resolve(revision)].files
        self._json([files[path].entry(path) for path in parse_qs(body.decode())["paths"] if path in files])

    def resolve(self, body, repo_id, revision, path):
        repo = self._repo(repo_id)
        sha = repo.resolve(revision)
        blob = repo.commits[sha].files.get(path)
        known = {"X-Repo-Commit": sha}
        if blob is None:
            return self._json({"error": "Entry not found"}, 404, **known, **{"X-Error-Code": "EntryNotFound"})
        if not blob.sha256:
            return self._answer(blob.content, ETag=f'"{blob.oid}"', **known)
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        if self.hub.xet:
            token = f"{self.hub.url}/api/models/{repo_id}/xet-read-token/{sha}"
            linked |= {"X-Xet-Hash": self.hub.xet.hashes[blob.sha256], "Link": f'<{token}>; rel="xet-auth"'}
        self._answer(b"", 302, Location=f"{self.hub.storage}/{blob.sha256}", **linked, **known)

    def preupload(self, body, repo_id, revision):
        request = "create_pr" in self.query
        repo = self._repo(repo_id, write=not request)
        there = repo.commits[repo.resolve(revision)].files
        answers = []
        content = self._read(body)
        [files] = _asked(content, files=list)
        kept = there.get(".gitignore", Blob(b"")).content.decode()
        ignored = content.get("gitIgnore", kept).split()
        for file in files:
            path, sample, size = _asked(file, path=str, sample=str, size=int)
            large = (
                path.endswith(".safetensors") or b"\0" in base64.b64decode(sample, validate=True) or size > 1_000_000
            )
            blob = there.get(path)
            oid = {"oid": blob.sha256 or blob.oid} if blob else {}
            ignore = any(ignores(pattern, path) for pattern in ignored)
            answers.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignore, **oid})
        self._json({"files": answers})

    def commit(self, body, repo_id, revision):
        request = "create_pr" in self.query
        repo = self._repo(repo_id, write=not request)
        if self._user() is None:
            raise Refused(401, "log in first", expected=True)
        if not request and f"refs/heads/{revision}" not in repo.refs and not revision.startswith("refs/pr/"):
            raise Refused(404, f"no branch {revision}", "RevisionNotFound", expected=True)
        if self.headers["Content-Type"] != "application/x-ndjson":
            raise Refused(400, f"commit of {self.headers['Content-Type']}")
        first, *lines = [self._read(line) for line in body.splitlines()]
        head = repo.resolve(revision)
        if first.get("key") != "header":
            raise Refused(400, f"a commit begins with {first!r:.200}")
        summary, _ = _asked(first["value"], summary=str, description=str)
        if first["value"].get("parentCommit", head) != head:
            raise Refused(412, "A commit has happened since. Please refresh and try again.", expected=True)
        files = dict(repo.commits[head].files)
        for line in lines:
            key, value = _asked(line, key=str, value=dict)
            self._change(files, key, value)
        if not lines:
            raise Refused(400, "an empty commit")
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
        ref = f"refs/pr/{number}" if request else revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        sha = repo.move(ref, Commit(files, head, summary))
        opened = {"pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/{number}"} if request else {}
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}", **opened})

    def _change(self, files: dict[str, Blob], key: str, value: dict):
        [path] = _asked(value, path=str)
        if key == "file":
            content, encoding = _asked(value, content=str, encoding=str)
            if encoding != "base64":
                raise Refused(400, f"{path} in {encoding}")
            files[path] = Blob(base64.b64decode(content, validate=True))
        elif key == "lfsFile":
            algorithm, oid, size = _asked(value, algo=str, oid=str, size=int)
            if self.hub.xet and oid not in self.hub.objects:
                self._store(oid, self.hub.xet.content(oid))
            if algorithm != "sha256" or len(self.hub.objects.get(oid, ())) != size:
                raise Refused(400, f"{path} was committed before it was uploaded")
            files[path] = Blob(self.hub.objects[oid], oid)
        elif key == "deletedFile" and path in files:
            del files[path]
        else:
            raise Refused(400, f"cannot do {key} with {path}")

    def branch(self, body, repo_id, name):
        repo = self._repo(repo_id, write=True)
        if f"refs/heads/{name}" in repo.refs:
            raise Refused(409, "branch exists", expected=True)
        repo.refs[f"refs/heads/{name}"] = repo.resolve(self._read(body).get("startingPoint", "main"))
        self._json({})

    def tag(self, body, repo_id, revision):
        repo = self._repo(repo_id, write=True)
        [name] = _asked(self._read(body), tag=str)
        if f"refs/tags/{name}" in repo.refs:
            raise Refused(409, "tag exists", expected=True)
        repo.refs[f"refs/tags/{name}"] = repo.resolve(revision)
        self._json({})

    # large files

    def batch(self, body, repo_id):
        self._repo(repo_id)
        if self._user() is None:
            raise Refused(401, "log in first", expected=True)
        content = self._read(body)
        operation, transfers, objects, algorithm = _asked(
            content, operation=str, transfers=list, objects=list, hash_algo=str
        )
        if operation != "upload" or algorithm != "sha256" or not {"basic", "multipart"} <= set(transfers):
            raise Refused(400, f"batch: {content}")
        answers = []
        for one in objects:
            oid, size = _asked(one, oid=str, size=int)
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                answer["actions"] = {
                    "upload": self._parts(oid, size) if size > PART else {"href": f"{self.hub.storage}/{oid}"},
                    "verify": {"href": f"{self.hub.url}/{repo_id}.git/info/lfs/objects/verify"},
                }
            answers.append(answer)
        self._json({"transfer": "multipart", "objects": answers})

    def _parts(self, oid: str, size: int) -> dict:
        urls = {str(n): f"{self.hub.storage}/{oid}/{n}" for n in range(1, -(-size // PART) + 1)}
        return {"href": f"{self.hub.url}/complete/{oid}", "header": {"chunk_size": str(PART), **urls}}

    def xet_token(self, body, repo_id, kind, revision):
        """Leave to talk to xet's storage, and where that is."""
        self._repo(repo_id, write=kind == "write")
        if self.hub.xet is None:
            raise Refused(404, "no xet here")
        expires = int(time.time()) + 3600
        headers = {"Cas-Url": self.hub.xet.url, "Access-Token": "xet", "Token-Expiration": str(expires)}
        self._json(
            {"casUrl": self.hub.xet.url, "accessToken": "xet", "exp": expires},
            **{f"X-Xet-{name}": value for name, value in headers.items()},
        )

    def verify(self, body, repo_id):
        oid, size = _asked(self._read(body), oid=str, size=int)
        if len(self.hub.objects.get(oid, ())) != size:
            raise Refused(404, f"{oid} was not uploaded")
        self._json({})

    def put(self, body, oid, part=None):
        self._without_token()
        if part is None:
            self._store(oid, body)
        else:
            self.hub.parts.setdefault(oid, {})[int(part)] = body
        self._answer(b"", ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def complete(self, body, oid):
        given, parts = _asked(self._read(body), oid=str, parts=list)
        there = self.hub.parts.pop(oid, {})
        etags = {part["partNumber"]: part["etag"].strip('"') for part in parts}
        if given != oid or etags != {number: hashlib.md5(part).hexdigest() for number, part in there.items()}:
            raise Refused(400, f"the parts of {oid} are not those that came")
        self._store(oid, b"".join(part for _, part in sorted(there.items())))
        self._json({})

    def _store(self, oid: str, content: bytes):
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, f"{oid} has another content")
        self.hub.objects[oid] = content

    def storage(self, body, oid):
        self._without_token()
        if oid not in self.hub.objects:
            raise Refused(404, "no such object")
        self._answer(self.hub.objects[oid], ETag=f'"{oid}"')

    def _without_token(self):
        if "Authorization" in self.headers:
            raise Refused(400, "a token was sent to the storage")


_REPO, _REVISION = r"(?P<repo_id>[\w.-]+/[\w.-]+)", r"(?P<revision>[^/]+)"
_MODEL = f"/api/models/{_REPO}"
_OBJECT = r"(?P<oid>[0-9a-f]{64})"
_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("GET", "/api/agent-harnesses", _Handler.harnesses),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("GET", _MODEL, _Handler.info),
    ("GET", f"{_MODEL}/revision/{_REVISION}", _Handler.info),
    ("GET", f"{_MODEL}/refs", _Handler.refs),
    ("GET", f"{_MODEL}/tree/{_REVISION}(?:/(?P<folder>.+))?", _Handler.tree),
    ("POST", f"{_MODEL}/paths-info/{_REVISION}", _Handler.paths_info),
    ("POST", f"{_MODEL}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", f"{_MODEL}/commit/{_REVISION}", _Handler.commit),
    ("POST", f"{_MODEL}/branch/(?P<name>[^/]+)", _Handler.branch),
    ("POST", f"{_MODEL}/tag/{_REVISION}", _Handler.tag),
    ("HEAD GET", f"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/verify", _Handler.verify),
    ("GET", f"{_MODEL}/xet-(?P<kind>read|write)-token/{_REVISION}", _Handler.xet_token),
    ("PUT", f"/storage/{_OBJECT}(?:/(?P<part>[0-9]+))?", _Handler.put),
    ("POST", f"/complete/{_OBJECT}", _Handler.complete),
    ("GET HEAD", f"/storage/{_OBJECT}", _Handler.storage),
]
