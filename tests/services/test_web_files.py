"""Files of weights by address and SHA-256: downloads from a server on loopback, with its faults."""

import hashlib
import multiprocessing
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from services.errors import ConfigError
from services.qwen_edit.settings import QwenEditSettings
from services.settings import take_offline
from services.weights.files import fetch_file, measure_file, resolve_file
from services.weights.licences import UNKNOWN
from services.weights.terms import find_licence
from services.weights.web import WebDownload
from services.weights.web_file import WebFile
from tests.services.file_server import FileServer, serve_file

BODY = bytes(range(256)) * 400
VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"


@pytest.fixture
def server() -> Generator[FileServer]:
    with serve_file() as files:
        files.body = BODY
        yield files


def name_file(server: FileServer, name: str = "a.pth", body: bytes = BODY) -> WebFile:
    return WebFile(url=f"{server.url}/x/{name}?token=secret", sha256=hashlib.sha256(body).hexdigest(), licence="MIT")


def resolve(file: WebFile, home: Path) -> Path:
    return resolve_file(file, home, "vgg16")


def list_files(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models" / "files").rglob("*") if path.is_file())


def refuse(file: WebFile, home: Path) -> str:
    """Return the message of a refused download; it names the setting and the address, but not the query."""
    with pytest.raises(ConfigError) as caught:
        resolve(file, home)
    assert caught.value.message.startswith(f"vgg16: {file.address}: ")
    assert "secret" not in caught.value.message
    return caught.value.message


def test_downloads_once(server: FileServer, tmp_path: Path) -> None:
    file = name_file(server)
    assert measure_file(file, tmp_path).missing == len(BODY)
    path = resolve(file, tmp_path)
    assert (path.name, path.read_bytes()) == ("a.pth", BODY)
    server.status = 500
    assert resolve(file, tmp_path) == path
    assert (measure_file(file, tmp_path).total, measure_file(file, tmp_path).missing) == (len(BODY), 0)


def test_shares_by_hash(server: FileServer, tmp_path: Path) -> None:
    first = resolve(name_file(server), tmp_path)
    second = resolve(name_file(server, "b.safetensors"), tmp_path)
    assert second.name == "b.safetensors"
    assert second.samefile(first)
    assert len(server.seen) == 1


def test_wrong_hash(server: FileServer, tmp_path: Path) -> None:
    file = name_file(server, body=b"other")
    message = refuse(file, tmp_path)
    assert file.sha256 in message
    assert hashlib.sha256(BODY).hexdigest() in message
    assert list_files(tmp_path) == []


def test_resumes_after_a_cut(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000, 500]
    assert resolve(name_file(server), tmp_path).read_bytes() == BODY
    assert server.seen == ["", "bytes=1000-", "bytes=1500-"]


def test_starts_again_without_range(server: FileServer, tmp_path: Path) -> None:
    server.cuts, server.ranges = [1000], False
    assert resolve(name_file(server), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("stale", [b"stale", b"x" * len(BODY), b"x" * (len(BODY) + 1)])
def test_starts_again_from_a_stale_part(server: FileServer, tmp_path: Path, stale: bytes) -> None:
    file = name_file(server)
    part = tmp_path / "models" / "files" / file.sha256 / ".partial"
    part.parent.mkdir(parents=True)
    part.write_bytes(stale)
    assert resolve(file, tmp_path).read_bytes() == BODY
    assert list_files(tmp_path) == ["a.pth"]


def test_short_body(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [10] * 9
    assert "closed the connection" in refuse(name_file(server), tmp_path)
    assert list_files(tmp_path) == [".partial"]
    server.cuts = []
    assert resolve(name_file(server), tmp_path).read_bytes() == BODY


def test_redirects(server: FileServer, tmp_path: Path) -> None:
    server.location = "/again?token=secret"
    assert "redirects more than 5 times" in refuse(name_file(server), tmp_path)
    server.location = "file:///etc/passwd"
    assert "redirects to file:///etc/passwd, which is neither http nor https" in refuse(name_file(server), tmp_path)
    server.location = "http://[bad"
    assert "impossible address" in refuse(name_file(server), tmp_path)
    assert list_files(tmp_path) == []


def test_refusals(server: FileServer, tmp_path: Path) -> None:
    server.status = 404
    assert "the server answered 404" in refuse(name_file(server), tmp_path)
    server.status, server.length = 200, 10**15
    assert "at most" in refuse(name_file(server), tmp_path)
    server.length = 0
    assert "empty" in refuse(name_file(server), tmp_path)
    assert list_files(tmp_path) == []


def test_time_out(server: FileServer, tmp_path: Path) -> None:
    download = WebDownload(name_file(server), tmp_path, timeout=httpx.Timeout(30, read=0.1))
    server.answers.clear()
    with pytest.raises(ConfigError, match="in time"):
        download.fetch(lambda _done, _total: None)
    assert list_files(tmp_path) == []


def test_no_server(tmp_path: Path) -> None:
    with serve_file() as server:
        file = name_file(server)
    assert "ConnectError" in refuse(file, tmp_path)


def test_two_processes(server: FileServer, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=resolve, args=(name_file(server), tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert server.seen == [""]
    assert list_files(tmp_path) == ["a.pth"]


def test_offline(server: FileServer, tmp_path: Path) -> None:
    settings = QwenEditSettings.model_validate({"weights": {"path": "/w"}, "vgg16": name_file(server).model_dump()})
    file = take_offline(settings).vgg16
    assert isinstance(file, WebFile)
    assert "offline is set" in refuse(file, tmp_path)
    assert server.seen == []


def test_licences(server: FileServer, tmp_path: Path) -> None:
    assert find_licence(VGG16).name == "BSD-3-Clause"
    assert find_licence("https://example.com/vgg16-397923af.pth") is UNKNOWN
    file = name_file(server).model_copy(update={"licence": None})
    with pytest.raises(ConfigError, match=r"licence of .*a\.pth is not known"):
        resolve(file, tmp_path)
    assert server.seen == []
    assert fetch_file(file, tmp_path, lambda _done, _total: None, accepted=True).read_bytes() == BODY


@pytest.mark.parametrize(
    "url",
    ["file:///a.pth", "ftp://h/a.pth", "http:///a.pth", "https://u:p@h/a.pth", "https://h/a", "https://h/..%2Fa.pth"],
)
def test_addresses(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        WebFile(url=url, sha256="0" * 64)


def test_hides_the_query() -> None:
    file = WebFile(url="https://h/x/a.pth?token=secret", sha256="0" * 64)
    assert (file.source, file.address) == ("a.pth", "https://h/x/a.pth")
