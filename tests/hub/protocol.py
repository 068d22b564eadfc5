"""How the test Hub reads requests, checks permissions and responds."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from .store import Refused, Repo


if TYPE_CHECKING:
    from .server import Hub


@dataclass
class Fault:
    """A fault that the next matching requests run into.

    Args:
        method: HTTP method of the requests.
        path_part: a part of their path.
        kind: `"cut"` closes the connection in the middle of the request body; `"silent"` sends nothing until the client
            hangs up; a number is the status of the response.
        times: number of requests that fail.
    """

    method: str
    path_part: str
    kind: str | int
    times: int = 1


def required_fields(content: dict, /, **kinds: type) -> list:
    """Return fields of a request body; refuse a body that lacks one or has one of another type."""
    for name, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise Refused(400, f"{name} must be {kind.__name__} in {content!r:.200}")
    return [content[name] for name in kinds]


class Handler(BaseHTTPRequestHandler):
    """Read requests, dispatch them by method and path, and check the user's permissions.

    Args:
        hub: the state of the server.
        routes: for each kind of request its methods, the pattern of its path, and the method that responds.
    """

    hub: "Hub"
    routes: list[tuple[str, str, Callable]]
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _handle(self):
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault(self.command, path)
        for path_part in [path_part for path_part in self.hub.before_request if path_part in path]:
            self.hub.before_request.pop(path_part)()
        try:
            body = self._body(cut=fault is not None and fault.kind == "cut")
            if fault and fault.kind == "silent":
                self.connection.recv(1)
            if fault and isinstance(fault.kind, int):
                raise Refused(fault.kind, "fault ordered by the test", expected=True)
            if fault is None or fault.kind != "silent":
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
        for methods, pattern, respond in self.routes:
            if (match := re.fullmatch(pattern, path)) and self.command in methods.split():
                return respond(self, body, **{name: unquote(text) for name, text in match.groupdict().items() if text})
        raise Refused(404, "the test Hub does not know this request")

    def _respond(self, content: bytes, status: int = 200, kind: str = "application/octet-stream", **headers: str):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content, status: int = 200, **headers: str):
        self._respond(json.dumps(content).encode(), status, "application/json", **headers)

    def _read(self, body: bytes) -> dict:
        try:
            return json.loads(body)
        except ValueError:
            raise Refused(400, f"the body is not JSON: {body[:80]!r}") from None

    # permissions

    def _user(self) -> str | None:
        authorization = self.headers.get("Authorization")
        if authorization is None:
            return None
        kind, _, token = authorization.partition(" ")
        if kind != "Bearer" or token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header", expected=True)
        return self.hub.tokens[token]

    def _may_write(self, repo_id: str) -> bool:
        owner, user = repo_id.split("/")[0], self._user()
        return user is not None and (user == owner or user in self.hub.members.get(owner, ()))

    def _repo(self, repo_id: str, write: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self._may_write(repo_id)):
            # as on the Hub: without access, a private repository looks as if it did not exist
            raise Refused(404 if self._user() else 401, "Repository not found", "RepoNotFound", expected=True)
        if write and not self._may_write(repo_id):
            raise Refused(403, "you don't have the rights to write here", expected=True)
        return repo
