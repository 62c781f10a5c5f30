"""The address that a server listens on."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from composition.server.ports import check_url, format_url, reserve_port
from services.errors import ConfigError

HERE = "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "secure", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8000"),
        ("0.0.0.0", False, "http://127.0.0.1:8000"),
        ("::", False, "http://[::1]:8000"),
        ("::1", True, "https://[::1]:8000"),
        ("films.example", True, "https://films.example:8000"),
    ],
)
def test_the_url_by_which_it_is_reached_from_here(host: str, secure: bool, url: str) -> None:
    assert format_url(host, 8000, secure=secure) == url


def free() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return probe.getsockname()[1]


def proxy(port: int, host: str = HERE, *, shares: bool = True) -> socket.socket:
    """Listen like a proxy of Serve."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen()
    return listening


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize(("theirs", "ours"), [(HERE, HERE), ("0.0.0.0", HERE), (HERE, "0.0.0.0"), (HERE, "::")])
def test_a_port_on_which_anybody_listens_is_refused(theirs: str, ours: str, shares: bool) -> None:
    port = free()
    taken = re.escape(f"port: {ours}:{port} is not available (Address already in use); choose another with --port")
    with proxy(port, theirs, shares=shares), pytest.raises(ConfigError, match=taken), reserve_port(ours, port):
        pass


def test_a_port_is_kept_for_proxies_and_for_nobody_else() -> None:
    port = free()
    with reserve_port(HERE, port):
        with pytest.raises(ConfigError, match="is not available"), reserve_port(HERE, port):
            pass
        with pytest.raises(OSError, match="in use"):
            proxy(port, shares=False)
        with proxy(port), socket.create_connection((HERE, port)):
            pass
    with reserve_port(HERE, port):
        pass


@pytest.mark.parametrize("shares", [False, True])
def test_a_port_whose_connections_just_closed_can_be_had(shares: bool) -> None:
    port = free()
    with proxy(port, shares=shares) as listening, socket.create_connection((HERE, port)):
        accepted, _ = listening.accept()
        accepted.close()  # first, so that the server's side stays in TIME_WAIT
    with reserve_port(HERE, port), proxy(port):
        pass


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:80 is not available"), reserve_port("192.0.2.1", 80):
        pass


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_well = self.path == "/healthz" and (self.headers["Host"] or "").startswith("127.0.0.1:")
        self.send_response(200 if is_well else 503)
        self.end_headers()
        self.wfile.write(b"" if is_well else b"the queue is gone")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass


@pytest.fixture
def pages() -> Iterator[str]:
    with ExitStack() as stack:
        server = stack.enter_context(HTTPServer((HERE, 0), Pages))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"http://{HERE}:{server.server_port}"


def test_whether_a_server_answers(pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # no request is sent
    assert check_url(f"{pages}/healthz") is None
    assert check_url(f"{pages}/readyz") == "status 503: the queue is gone"
    assert "refused" in (check_url(f"http://{HERE}:{free()}/healthz") or "")
