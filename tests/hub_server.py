"""A model hub on this machine, as far as downloads need one: listings, redirects to large storage, ranges, errors."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

Files = dict[str, bytes]
SMALL = 200  # files up to this many bytes are in git, larger ones in large storage


def commit_of(files: Files) -> str:
    """A commit that stands for these files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@dataclass
class Hub:
    """What is on the hub, how it misbehaves, and what it was asked. Repositories are named `models/OWNER/NAME`."""

    commits: dict[str, dict[str, Files]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    closed_without: dict[str, str] = field(default_factory=dict)  # repository: the token that opens it
    damaged: set[str] = field(default_factory=set)  # files of which a byte changes on the way
    stops_after: int | None = None  # bytes of a file after which the hub says nothing more
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # path, range, token
    address: str = ""

    def push(self, repository: str, files: Files) -> str:
        """A new version of a repository; its commit."""
        commit = commit_of(files)
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.branches.setdefault(repository, {})["main"] = commit
        return commit


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub answers at `hub.address` until the block ends."""

    class Handler(_Handler):
        """Answers for this hub."""

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path).strip("/")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.asked.append((path, self.headers.get("Range"), token))
        if path.startswith("api/"):
            self._list(path.removeprefix("api/"), token)
        elif path.startswith("storage/"):
            repository, commit, name = _parts(path.removeprefix("storage/"))
            self._send(name, self.hub.commits[repository][commit][name])
        else:
            self._resolve(path if path.startswith("datasets/") else f"models/{path}", token)

    def _list(self, path: str, token: str | None) -> None:
        repository, _, revision = path.partition("/revision/")
        files = self._files(repository, revision, token)
        if files is not None:
            commit, content = files
            siblings = [_sibling(name, data) for name, data in content.items()]
            self._json({"id": repository.partition("/")[2], "sha": commit, "siblings": siblings})

    def _resolve(self, path: str, token: str | None) -> None:
        repository, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self._files(repository, revision, token)
        if files is None:
            return
        commit, content = files
        if len(content[name]) <= SMALL:
            self._send(name, content[name])
            return
        self.send_response(302)
        self.send_header("Location", f"/storage/{repository}/{commit}/{name}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _files(self, repository: str, revision: str, token: str | None) -> tuple[str, Files] | None:
        """The commit and its files; None after an error was answered."""
        commits = self.hub.commits.get(repository)
        if commits is None:
            return self._error(404, "RepoNotFound")
        if self.hub.closed_without.get(repository, token) != token:
            return self._error(403, "GatedRepo")
        commit = self.hub.branches[repository].get(revision, revision)
        return (commit, commits[commit]) if commit in commits else self._error(404, "RevisionNotFound")

    def _send(self, name: str, data: bytes) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if name in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        stop = self.hub.stops_after
        self.wfile.write(data[start : None if stop is None else start + stop])
        self.wfile.flush()
        while stop is not None and start + stop < len(data) and self.hub.stops_after == stop:
            time.sleep(0.05)

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _parts(path: str) -> tuple[str, str, str]:
    kind, owner, name, commit, file = path.split("/", 4)
    return f"{kind}/{owner}/{name}", commit, file


def _sibling(name: str, data: bytes) -> dict[str, object]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    large = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return {"rfilename": name, "size": len(data), "blobId": git} | ({"lfs": large} if len(data) > SMALL else {})
