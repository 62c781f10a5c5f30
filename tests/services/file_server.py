"""A local web server with one file, and the faults of servers that downloads must survive."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """The file, the faults that the server simulates, and a record of its requests."""

    url: str
    body: bytes = b""
    status: int = 200
    length: int | None = None
    """False Content-Length."""
    cuts: list[int] = field(default_factory=list[int])
    """For each of the next responses, the number of bytes after which the connection closes."""
    ranges: bool = True
    location: str = ""
    """Address to which every request is redirected."""
    answers: threading.Event = field(default_factory=threading.Event)
    """While it is cleared, requests wait for their response."""
    seen: list[str] = field(default_factory=list[str])
    """The Range header of each request, or an empty string."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (name of the overridden parameter)
        """Suppress the log."""

    def do_GET(self) -> None:
        files, asked = self.files, self.headers.get("Range", "")
        files.seen.append(asked)
        files.answers.wait()
        self.close_connection = True
        start = int(asked[6:-1]) if asked and files.ranges else 0
        if files.location:
            self._answer(302, 0, Location=files.location)
        elif files.status != 200:
            self._answer(files.status, 0)
        elif start >= len(files.body):
            self._answer(416, 0)
        else:
            self._send(start, files.body[start:])

    def _send(self, start: int, part: bytes) -> None:
        files, last = self.files, len(self.files.body) - 1
        length = len(part) if files.length is None else files.length
        ranges = {"Content-Range": f"bytes {start}-{last}/{last + 1}"} if start else {}
        self._answer(206 if start else 200, length, **ranges)
        self.wfile.write(part[: files.cuts.pop(0)] if files.cuts else part)

    def _answer(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serve_file() -> Generator[FileServer]:
    """Run the server while the context is open."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    files = FileServer(f"http://127.0.0.1:{server.server_address[1]}")
    files.answers.set()
    handler.files = files  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield files
    finally:
        files.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()
