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
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.branches.setdefault(repository, {})["main"] = commit
        return commit


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub answers at `hub.address` until the block ends."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
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
        if path.startswith("storage/"):
            kind, owner, name, commit, file = path.removeprefix("storage/").split("/", 4)
            self._send(file, self.hub.commits[f"{kind}/{owner}/{name}"][commit][file])
        elif path.startswith("api/"):
            repository, _, revision = path.removeprefix("api/").partition("/revision/")
            if found := self._files(repository, revision, token):
                siblings = [_sibling(name, data) for name, data in found[1].items()]
                listing = {"id": repository.partition("/")[2], "sha": found[0], "siblings": siblings}
                self._answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        else:
            repository, _, rest = (path if path.startswith("datasets/") else f"models/{path}").partition("/resolve/")
            revision, _, name = rest.partition("/")
            if found := self._files(repository, revision, token):
                if len(found[1][name]) <= SMALL:
                    self._send(name, found[1][name])
                else:
                    self._answer(302, headers={"Location": f"/storage/{repository}/{found[0]}/{name}"})

    def _files(self, repository: str, revision: str, token: str | None) -> tuple[str, Files] | None:
        """The commit and its files; None after an error was answered."""
        commits = self.hub.commits.get(repository)
        if commits is None:
            return self._answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if self.hub.closed_without.get(repository, token) != token:
            return self._answer(403, headers={"X-Error-Code": "GatedRepo"})
        commit = self.hub.branches[repository].get(revision, revision)
        if commit not in commits:
            return self._answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        return commit, commits[commit]

    def _send(self, name: str, data: bytes) -> None:
        """The file, or the range of it that was asked for, as far as the hub goes."""
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if name in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        stop = self.hub.stops_after
        self._answer(206 if start else 200, data[start:], headers, stop)
        while stop is not None and start + stop < len(data) and self.hub.stops_after == stop:
            time.sleep(0.05)

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, stop: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:stop])
        self.wfile.flush()


def _sibling(name: str, data: bytes) -> dict[str, object]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    large = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return {"rfilename": name, "size": len(data), "blobId": git} | ({"lfs": large} if len(data) > SMALL else {})
