"""A strict Hub on localhost for the unmodified client of huggingface_hub.

It refuses requests that it does not know or that are malformed, and records them in `failures`, so that a test can
check at its end that there were none. Large files use LFS, in several parts above a size. They are served under another
host name, which must not receive a token. Tests can order faults; see `Fault`.
"""

import base64
import hashlib
import re
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs

import yaml

from .protocol import Fault, Handler, required_fields
from .store import Blob, Commit, Refused, Repo, XetStorage, is_ignored, metadata_errors


PART_SIZE = 200_000  # bytes per part of a large file


class Hub:
    """The server. `tokens` maps tokens to users; `members` maps organisations to the users who may write to them.

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
        self.before_request: dict[str, Callable] = {}  # called once before a request whose path contains the key
        self.requests: list[str] = []
        self.failures: list[str] = []
        self.xet = xet
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_HubHandler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}/storage"  # another host to the client

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    def put(self, content: bytes) -> str:
        """Store a large file and return its SHA-256."""
        oid = hashlib.sha256(content).hexdigest()
        self.objects[oid] = content
        return oid

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.path_part in path:
                    fault.times -= 1
                    return fault


class _HubHandler(Handler):
    """The responses to all known requests."""

    def whoami(self, body):
        user = self._user()
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header", expected=True)
        orgs = [{"type": "org", "name": name} for name, users in self.hub.members.items() if user in users]
        self._json({"type": "user", "name": user, "orgs": orgs, "auth": {"type": "access_token"}})

    def create(self, body):
        content = self._read(body)
        [name] = required_fields(content, name=str)
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
        raise Refused(404, "there is no list of agents; clients accept that", expected=True)

    def validate_yaml(self, body):
        text, _kind = required_fields(self._read(body), content=str, repoType=str)
        front_matter = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        if not front_matter:
            return self._json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        try:
            content = yaml.safe_load(front_matter[1])
            errors = list(metadata_errors(content)) if isinstance(content, dict) else ["metadata must be a mapping"]
        except yaml.YAMLError as error:
            errors = [str(error)]
        response = {"errors": [{"message": message} for message in errors], "warnings": []}
        self._json(response, 400 if errors else 200)

    def info(self, body, repo_id, revision="main"):
        repo = self._repo(repo_id)
        sha = repo.resolve(revision)
        files = [{"rfilename": path} for path in repo.commits[sha].files]
        self._json({"_id": "1", "id": repo_id, "sha": sha, "private": repo.private, "siblings": files, "tags": []})

    def refs(self, body, repo_id):
        references = {"refs/heads/": [], "refs/tags/": [], "refs/pr/": []}
        for ref, sha in self._repo(repo_id).refs.items():
            prefix = next(prefix for prefix in references if ref.startswith(prefix))
            references[prefix].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha})
        branches, tags, pull_requests = references.values()
        optional = {"pullRequests": pull_requests} if self.query.get("include_prs") else {}
        self._json({"branches": branches, "tags": tags, "converts": [], **optional})

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
        headers = {"X-Repo-Commit": sha}
        if blob is None:
            return self._json({"error": "Entry not found"}, 404, **headers, **{"X-Error-Code": "EntryNotFound"})
        if not blob.sha256:
            return self._respond(blob.content, ETag=f'"{blob.oid}"', **headers)
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        if self.hub.xet:
            token = f"{self.hub.url}/api/models/{repo_id}/xet-read-token/{sha}"
            linked |= {"X-Xet-Hash": self.hub.xet.hashes[blob.sha256], "Link": f'<{token}>; rel="xet-auth"'}
        self._respond(b"", 302, Location=f"{self.hub.storage}/{blob.sha256}", **linked, **headers)

    def preupload(self, body, repo_id, revision):
        is_pull_request = "create_pr" in self.query
        repo = self._repo(repo_id, write=not is_pull_request)
        existing = repo.commits[repo.resolve(revision)].files
        entries = []
        content = self._read(body)
        [files] = required_fields(content, files=list)
        gitignore = existing.get(".gitignore", Blob(b"")).content.decode()
        patterns = content.get("gitIgnore", gitignore).split()
        for file in files:
            path, sample, size = required_fields(file, path=str, sample=str, size=int)
            large = (
                path.endswith(".safetensors") or b"\0" in base64.b64decode(sample, validate=True) or size > 1_000_000
            )
            blob = existing.get(path)
            oid = {"oid": blob.sha256 or blob.oid} if blob else {}
            ignore = any(is_ignored(pattern, path) for pattern in patterns)
            entries.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignore, **oid})
        self._json({"files": entries})

    def commit(self, body, repo_id, revision):
        is_pull_request = "create_pr" in self.query
        repo = self._repo(repo_id, write=not is_pull_request)
        if self._user() is None:
            raise Refused(401, "log in first", expected=True)
        if not is_pull_request and f"refs/heads/{revision}" not in repo.refs and not revision.startswith("refs/pr/"):
            raise Refused(404, f"no branch {revision}", "RevisionNotFound", expected=True)
        if self.headers["Content-Type"] != "application/x-ndjson":
            raise Refused(400, f"commit with Content-Type {self.headers['Content-Type']}")
        first, *lines = [self._read(line) for line in body.splitlines()]
        head = repo.resolve(revision)
        if first.get("key") != "header":
            raise Refused(400, f"the first line of a commit is {first!r:.200}")
        summary, _ = required_fields(first["value"], summary=str, description=str)
        if first["value"].get("parentCommit", head) != head:
            raise Refused(412, "A commit has happened since. Please refresh and try again.", expected=True)
        files = dict(repo.commits[head].files)
        for line in lines:
            key, value = required_fields(line, key=str, value=dict)
            self._change(files, key, value)
        if not lines:
            raise Refused(400, "an empty commit")
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        if is_pull_request:
            ref = f"refs/pr/{number}"
        sha = repo.move(ref, Commit(files, head, summary))
        opened = {"pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/{number}"} if is_pull_request else {}
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}", **opened})

    def _change(self, files: dict[str, Blob], key: str, value: dict):
        [path] = required_fields(value, path=str)
        if key == "file":
            content, encoding = required_fields(value, content=str, encoding=str)
            if encoding != "base64":
                raise Refused(400, f"{path} has the encoding {encoding}")
            files[path] = Blob(base64.b64decode(content, validate=True))
        elif key == "lfsFile":
            algorithm, oid, size = required_fields(value, algo=str, oid=str, size=int)
            if self.hub.xet and oid not in self.hub.objects:
                self._store(oid, self.hub.xet.content(oid))
            if algorithm != "sha256" or len(self.hub.objects.get(oid, ())) != size:
                raise Refused(400, f"{path} was committed before it was uploaded")
            files[path] = Blob(self.hub.objects[oid], oid)
        elif key == "deletedFile" and path in files:
            del files[path]
        else:
            raise Refused(400, f"unknown operation {key} for {path}")

    def branch(self, body, repo_id, name):
        repo = self._repo(repo_id, write=True)
        if f"refs/heads/{name}" in repo.refs:
            raise Refused(409, "branch exists", expected=True)
        repo.refs[f"refs/heads/{name}"] = repo.resolve(self._read(body).get("startingPoint", "main"))
        self._json({})

    def tag(self, body, repo_id, revision):
        repo = self._repo(repo_id, write=True)
        [name] = required_fields(self._read(body), tag=str)
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
        operation, transfers, objects, algorithm = required_fields(
            content, operation=str, transfers=list, objects=list, hash_algo=str
        )
        if operation != "upload" or algorithm != "sha256" or not {"basic", "multipart"} <= set(transfers):
            raise Refused(400, f"batch: {content}")
        entries = []
        for requested in objects:
            oid, size = required_fields(requested, oid=str, size=int)
            entry = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                entry["actions"] = {
                    "upload": self._parts(oid, size) if size > PART_SIZE else {"href": f"{self.hub.storage}/{oid}"},
                    "verify": {"href": f"{self.hub.url}/{repo_id}.git/info/lfs/objects/verify"},
                }
            entries.append(entry)
        self._json({"transfer": "multipart", "objects": entries})

    def _parts(self, oid: str, size: int) -> dict:
        urls = {str(n): f"{self.hub.storage}/{oid}/{n}" for n in range(1, -(-size // PART_SIZE) + 1)}
        return {"href": f"{self.hub.url}/complete/{oid}", "header": {"chunk_size": str(PART_SIZE), **urls}}

    def xet_token(self, body, repo_id, kind, revision):
        """Respond with the address of the xet storage, and a token for it."""
        self._repo(repo_id, write=kind == "write")
        if self.hub.xet is None:
            raise Refused(404, "this Hub has no xet storage", expected=True)
        expires = int(time.time()) + 3600
        headers = {"Cas-Url": self.hub.xet.url, "Access-Token": "xet", "Token-Expiration": str(expires)}
        self._json(
            {"casUrl": self.hub.xet.url, "accessToken": "xet", "exp": expires},
            **{f"X-Xet-{name}": value for name, value in headers.items()},
        )

    def verify(self, body, repo_id):
        oid, size = required_fields(self._read(body), oid=str, size=int)
        if len(self.hub.objects.get(oid, ())) != size:
            raise Refused(404, f"{oid} was not uploaded")
        self._json({})

    def put(self, body, oid, part=None):
        self._refuse_tokens()
        if part is None:
            self._store(oid, body)
        else:
            self.hub.parts.setdefault(oid, {})[int(part)] = body
        self._respond(b"", ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def complete(self, body, oid):
        body_oid, parts = required_fields(self._read(body), oid=str, parts=list)
        uploaded = self.hub.parts.pop(oid, {})
        etags = {part["partNumber"]: part["etag"].strip('"') for part in parts}
        if body_oid != oid or etags != {number: hashlib.md5(part).hexdigest() for number, part in uploaded.items()}:
            raise Refused(400, f"the parts of {oid} differ from the uploaded parts")
        self._store(oid, b"".join(part for _, part in sorted(uploaded.items())))
        self._json({})

    def _store(self, oid: str, content: bytes):
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, f"the content does not have the hash {oid}")
        self.hub.objects[oid] = content

    def storage(self, body, oid):
        self._refuse_tokens()
        if oid not in self.hub.objects:
            raise Refused(404, "no such object")
        self._respond(self.hub.objects[oid], ETag=f'"{oid}"')

    def _refuse_tokens(self):
        if "Authorization" in self.headers:
            raise Refused(400, "a token was sent to the storage")


_REPO, _REVISION = r"(?P<repo_id>[\w.-]+/[\w.-]+)", r"(?P<revision>[^/]+)"
_MODEL = f"/api/models/{_REPO}"
_OBJECT = r"(?P<oid>[0-9a-f]{64})"
_HubHandler.routes = [
    ("GET", "/api/whoami-v2", _HubHandler.whoami),
    ("GET", "/api/agent-harnesses", _HubHandler.harnesses),
    ("POST", "/api/repos/create", _HubHandler.create),
    ("POST", "/api/validate-yaml", _HubHandler.validate_yaml),
    ("GET", _MODEL, _HubHandler.info),
    ("GET", f"{_MODEL}/revision/{_REVISION}", _HubHandler.info),
    ("GET", f"{_MODEL}/refs", _HubHandler.refs),
    ("GET", f"{_MODEL}/tree/{_REVISION}(?:/(?P<folder>.+))?", _HubHandler.tree),
    ("POST", f"{_MODEL}/paths-info/{_REVISION}", _HubHandler.paths_info),
    ("POST", f"{_MODEL}/preupload/{_REVISION}", _HubHandler.preupload),
    ("POST", f"{_MODEL}/commit/{_REVISION}", _HubHandler.commit),
    ("POST", f"{_MODEL}/branch/(?P<name>[^/]+)", _HubHandler.branch),
    ("POST", f"{_MODEL}/tag/{_REVISION}", _HubHandler.tag),
    ("HEAD GET", f"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _HubHandler.resolve),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _HubHandler.batch),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/verify", _HubHandler.verify),
    ("GET", f"{_MODEL}/xet-(?P<kind>read|write)-token/{_REVISION}", _HubHandler.xet_token),
    ("PUT", f"/storage/{_OBJECT}(?:/(?P<part>[0-9]+))?", _HubHandler.put),
    ("POST", f"/complete/{_OBJECT}", _HubHandler.complete),
    ("GET HEAD", f"/storage/{_OBJECT}", _HubHandler.storage),
]
