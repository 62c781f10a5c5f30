"""A local fake hub with the parts of Hugging Face's and ModelScope's HTTP API that downloads need."""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A repository of the hub, and the faults that it simulates."""

    files: dict[str, bytes]
    claimed: dict[str, int] = field(default_factory=dict[str, int])
    """False sizes in bytes by file, for the file list."""
    gate: str = ""
    """X-Error-Code of the response to requests without `token`; empty if the repository is public."""
    gated_list: bool = False
    """Whether the file list needs the token too."""
    token: str = ""
    cut: dict[str, int] = field(default_factory=dict[str, int])
    """Number of bytes by file after which the connection breaks, once."""


class HubServer:
    """The hub's repositories, and a record of its requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.begin()

    def begin(self) -> None:
        """Remove all repositories and recorded requests."""
        self.repositories: dict[str, Repository] = {}
        self.served: Counter[str] = Counter()
        """Number of downloads by file."""
        self.ranges: list[str] = []
        self.requests = 0
        self.hold = threading.Event()
        """While it is cleared, responses pause in the middle of a file."""
        self.hold.set()
        self.held = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """HTTP request handler of `hub`."""

    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (name of the overridden parameter)
        """Suppress the log."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests += 1
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(\w+)", path):
            self._hf_list(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self._hf_file(*match.groups())
        elif match := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo/files", path):
            self._ms_list(match[1], query["Revision"][0])
        elif match := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo", path):
            self._ms_file(match[1], query["Revision"][0], query["FilePath"][0])
        else:
            self._answer(404, b"no such route")

    def _hf_list(self, name: str, revision: str) -> None:
        repository = self._hf_found(name, revision)
        if repository is None or (repository.gated_list and self._shut(repository)):
            return
        entries = [
            {"type": "file", "path": path, "size": repository.claimed.get(path, len(data)), "oid": _oid(data)}
            for path, data in repository.files.items()
        ]
        self._answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _hf_file(self, name: str, revision: str, path: str) -> None:
        repository = self._hf_found(name, revision)
        if repository is None or self._shut(repository):
            return
        if path not in repository.files:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = repository.files[path]
        self._file(repository, path, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": revision})

    def _hf_found(self, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision != COMMIT:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            repository = None
        return repository

    def _shut(self, repository: Repository) -> bool:
        if not repository.gate or self.headers.get("Authorization") == f"Bearer {repository.token}":
            return False
        if repository.gate == "Disabled":
            self._answer(403, b"", {"X-Error-Message": "Access to this resource is disabled."})
        else:
            self._answer(403, b"", {"X-Error-Code": repository.gate})
        return True

    def _ms_list(self, name: str, revision: str) -> None:
        repository = self._ms_found(name, revision)
        if repository is not None:
            entries = [
                {
                    "Path": path,
                    "Type": "blob",
                    "Size": repository.claimed.get(path, len(data)),
                    "Sha256": hashlib.sha256(data).hexdigest(),
                }
                for path, data in repository.files.items()
            ]
            entries.append({"Path": "folder", "Type": "tree", "Size": 0})
            self._answer(200, json.dumps({"Code": 200, "Data": {"Files": entries}}).encode())

    def _ms_file(self, name: str, revision: str, path: str) -> None:
        repository = self._ms_found(name, revision)
        if repository is not None:
            self._file(repository, path, {})

    def _ms_found(self, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None or revision != COMMIT:
            self._answer(404, b'{"Code": 10010205001, "Message": "not found"}')
            return None
        if repository.gate:
            self._answer(int(repository.gate), b'{"Message": "no"}')
            return None
        return repository

    def _file(self, repository: Repository, path: str, headers: dict[str, str]) -> None:
        data, start = repository.files[path], 0
        headers = {**headers, "Content-Disposition": "attachment"}
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        cut = None
        if self.command == "GET":
            self.hub.served[path] += 1
            cut = repository.cut.pop(path, None)
        self._answer(206 if asked else 200, data[start:], headers, cut)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2 if cut is None else cut
        self.wfile.write(body[:half])
        if cut is not None:
            self.close_connection = True
            return
        if headers and "Content-Disposition" in headers and not self.hub.hold.is_set():
            self.wfile.flush()
            self.hub.held.set()
            self.hub.hold.wait(60)
        self.wfile.write(body[half:])


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close the connection."""


def _oid(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@contextmanager
def running() -> Generator[HubServer]:
    """Serve the hub on a free local port within the block."""
    handler = type("Bound", (Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    hub = HubServer(f"http://127.0.0.1:{server.server_port}")
    handler.hub = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
