"""The front door without keys: the names that it answers to, and the pages that it refuses."""

import asyncio
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError
from starlette.types import ASGIApp, Message

from composition.configuration.origins import DoorSettings
from composition.http.ingress import Ingress, IngressSettings
from composition.records.artifacts import ArtifactSettings
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.painting import front_door, served

OWN = "http://127.0.0.1:8000"
EVERY_ROUTE = [
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("GET", "/v1/models"),
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("DELETE", "/v1/files/file_a"),
    ("GET", "/v1/videos"),
    ("POST", "/v1/videos"),
    ("HEAD", "/v1/videos/video_a/content"),
    ("GET", "/v1/videos/video_a/events"),
    ("OPTIONS", "/v1/videos"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing is stored here."""
    return tmp_path_factory.mktemp("door")


@cache
def application(folder: Path, settings: str) -> ASGIApp:
    """The routes, by settings as JSON."""
    return front_door(folder, **json.loads(settings)).api()


async def knock(
    folder: Path, headers: Sequence[tuple[str, str]], method: str = "GET", path: str = "/healthz", **settings: Any
) -> httpx.Response:
    """Send one request with just these headers, past any client's own."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
    }
    await application(folder, json.dumps(settings))(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)


async def status(folder: Path, headers: dict[str, str], **settings: Any) -> int:
    return (await knock(folder, list(headers.items()), **settings)).status_code


def refused(answer: httpx.Response, param: str, *words: str) -> None:
    """Check that an answer is a refusal in the shape of all errors."""
    assert answer.status_code == 403, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "forbidden")
    for word in words:
        assert word in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost:1",
        "localhost.",
        "localhost.:8000",
        "localhost:",
        "studio.localhost:8000",
        "127.0.0.1",
        "127.0.0.1:65535",
        "127.8.9.10:80",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:8000",
    ],
)
async def test_names_of_this_machine_are_answered(folder: Path, host: str) -> None:
    assert await status(folder, {"Host": host}) == 200


NOT_OURS = [
    "attacker.example",
    "attacker.example:8000",
    "localhost.attacker.example",
    "notlocalhost",
    ".localhost",
    "a..localhost",
    "localhost..",
    "127.0.0.1.attacker.example",
    "128.0.0.1",
    "0.0.0.0:8000",
    "127.1",
    "0127.0.0.1",
    "2130706433",
    "192.168.1.5",
    "[::]",
    "[::2]:8000",
    "[::ffff:127.0.0.1]",
    "[::1].",
    "[::1",
    "::1",
    "[127.0.0.1]",
    "",
    " ",
    "localhost, attacker.example",
    "localhost attacker.example",
    "user@localhost",
    "http://localhost",
    "localhost/",
    "localhost:80:80",
    "localhost:8o",
    "localhost:-1",
    "localhost:123456",
    "lo\xe7alhost",
    "\x00",
    "a" * 100_000,
    f"{'a.' * 200}localhost",
]


@pytest.mark.parametrize("host", NOT_OURS, ids=lambda host: repr(host[:40]))
async def test_other_names_are_not(folder: Path, host: str) -> None:
    answer = await knock(folder, [("Host", host)])
    refused(answer, "Host", repr(host[:60])[1:-1], "allowed_hosts")


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_no_route_answers_another_name_or_page(folder: Path, method: str, path: str) -> None:
    host = await knock(folder, [("Host", "attacker.example")], method, path)
    refused(host, "Host", "attacker.example")
    page = await knock(folder, [("Host", "localhost"), ("Origin", "http://attacker.example")], method, path)
    refused(page, "Origin", "http://attacker.example", "allowed_origins")


async def test_a_request_names_one_host(folder: Path) -> None:
    refused(await knock(folder, []), "Host", "a request without one")
    refused(await knock(folder, [("Host", "localhost")] * 2), "Host", "localhost, localhost")
    refused(await knock(folder, [("Host", "localhost"), ("Host", "attacker.example")]), "Host", "attacker.example")


@pytest.mark.parametrize(
    ("allowed", "host", "code"),
    [
        (["Studio.Example.org"], "studio.example.ORG:8000", 200),
        (["studio.example.org"], "localhost", 200),
        (["studio.example.org"], "a.studio.example.org", 403),
        (["*.example.org"], "studio.example.org", 200),
        (["*.example.org"], "a.b.example.org.", 200),
        (["*.example.org"], "example.org", 403),
        (["*.example.org"], "badexample.org", 403),
        (["*.example.org"], ".example.org", 403),
        (["192.168.1.5", "fd00::1", "[fd00::2]"], "192.168.1.5:8000", 200),
        (["192.168.1.5", "fd00::1", "[fd00::2]"], "[fd00::1]:8000", 200),
        (["192.168.1.5", "fd00::1", "[fd00::2]"], "[FD00:0::2]", 200),
        (["192.168.1.5", "fd00::1", "[fd00::2]"], "[fd00::3]", 403),
        (["*"], "attacker.example", 200),
        (["*"], "", 200),
    ],
)
async def test_hosts_can_be_allowed(folder: Path, allowed: list[str], host: str, code: int) -> None:
    assert await status(folder, {"Host": host}, allowed_hosts=allowed) == code


@pytest.mark.parametrize(
    "name", ["", "http://a.example", "a.example:80", "a.example:", "a*.example", "*.*.example", "**", "a b", "[::1]:80"]
)
def test_a_name_that_is_none_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ValidationError, match="must be a host name or address without scheme and port"):
        DoorSettings.model_validate({"allowed_hosts": [name]})


@pytest.mark.parametrize("origin", ["", "*", "null", "a.example", "https://", "https://a.example/", "https://a b"])
def test_an_origin_that_is_none_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match=r"must be an origin, e\.g\."):
        DoorSettings.model_validate({"allowed_origins": [origin]})


def test_settings_are_spelled_as_browsers_write_them() -> None:
    given = DoorSettings.model_validate({"allowed_origins": ["HTTPS://A.example:443", "http://[::1]:80", "app://X:7"]})
    assert given.allowed_origins == ("https://a.example", "http://[::1]", "app://x:7")


@pytest.mark.parametrize(
    ("host", "origin", "site", "code"),
    [
        ("127.0.0.1:8000", None, None, 200),  # a program
        ("127.0.0.1:8000", None, "none", 200),  # an address that a person has opened
        ("127.0.0.1:8000", None, "same-origin", 200),
        ("127.0.0.1:8000", OWN, "same-origin", 200),
        ("127.0.0.1:8000", OWN, None, 200),
        ("127.0.0.1:8000", "https://127.0.0.1:8000", None, 200),  # behind a proxy that ends TLS
        ("localhost", "http://localhost", None, 200),
        ("localhost:443", "https://localhost", None, 200),
        ("localhost", "https://localhost:443", None, 200),
        ("LOCALHOST:8000", "http://localhost:8000", None, 200),
        ("[::1]:8000", "http://[::1]:8000", None, 200),
        ("127.0.0.1:8000", "null", None, 403),
        ("127.0.0.1:8000", "", None, 403),
        ("127.0.0.1:8000", "http://127.0.0.1:8001", None, 403),
        ("127.0.0.1:8000", "http://127.0.0.1", None, 403),
        ("127.0.0.1:8000", "http://localhost:8000", None, 403),
        ("localhost", "http://localhost:443", None, 403),
        ("127.0.0.1:8000", "file://127.0.0.1:8000", None, 403),
        ("127.0.0.1:8000", "http://127.0.0.1:8000, http://127.0.0.1:8000", None, 403),
        ("127.0.0.1:8000", "http://user@127.0.0.1:8000", None, 403),
        ("127.0.0.1:8000", "http://" + "a" * 100_000, None, 403),
        ("127.0.0.1:8000", None, "cross-site", 403),
        ("127.0.0.1:8000", None, "same-site", 403),
        ("127.0.0.1:8000", None, "what will be", 403),
        ("127.0.0.1:8000", OWN, "cross-site", 403),  # by way of another site
        ("127.0.0.1:8000", OWN, "same-site", 403),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_pages_of_others_are_refused(
    folder: Path, host: str, origin: str | None, site: str | None, code: int
) -> None:
    told = {"Host": host, "Origin": origin, "Sec-Fetch-Site": site}
    answer = await knock(folder, [(name, value) for name, value in told.items() if value is not None])
    assert answer.status_code == code, answer.text
    if code == 403:
        refused(answer, "Sec-Fetch-Site" if origin in (None, OWN) else "Origin", "allowed_origins")


async def test_two_origins_are_none(folder: Path) -> None:
    refused(await knock(folder, [("Host", "127.0.0.1:8000"), ("Origin", OWN), ("Origin", OWN)]), "Origin")


async def test_pages_can_be_allowed_and_may_read(folder: Path) -> None:
    allowed: dict[str, Any] = {"allowed_origins": ["https://studio.example.org"]}
    page = [("Host", "localhost:8000"), ("Origin", "https://studio.example.org"), ("Sec-Fetch-Site", "cross-site")]
    answer = await knock(folder, page, **allowed)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://studio.example.org"
    asked = [*page, ("Access-Control-Request-Method", "DELETE"), ("Access-Control-Request-Headers", "content-type")]
    answer = await knock(folder, asked, "OPTIONS", "/v1/videos/video_a", **allowed)
    assert answer.status_code == 200
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    other = [("Host", "localhost:8000"), ("Origin", "http://studio.example.org")]
    answer = await knock(folder, other, **allowed)
    refused(answer, "Origin")
    assert "access-control-allow-origin" not in answer.headers
    assert (
        await knock(folder, [("Host", "localhost"), ("Sec-Fetch-Site", "cross-site")], **allowed)
    ).status_code == 403


async def test_with_keys_only_what_the_settings_say_is_checked(folder: Path) -> None:
    foreign = {"Host": "attacker.example", "Origin": "http://attacker.example:1", "Sec-Fetch-Site": "cross-site"}
    assert await status(folder, foreign, auth="keys") == 200
    assert await status(folder, {}, auth="keys") == 200
    assert await status(folder, foreign, auth="keys", allowed_hosts=["studio.example.org"]) == 403
    assert (
        await status(folder, {"Host": "studio.example.org"}, auth="keys", allowed_hosts=["studio.example.org"]) == 200
    )
    origins: dict[str, Any] = {"allowed_origins": ["https://studio.example.org"], "auth": "keys"}
    assert await status(folder, foreign, **origins) == 403
    assert await status(folder, {"Host": "any.example"}, **origins) == 200


@pytest.mark.parametrize(
    ("headers", "closed_with"),
    [
        ({"host": "attacker.example"}, 1008),
        ({"host": "localhost", "origin": "null"}, 1008),
        ({"host": "localhost"}, 1000),
    ],
)
async def test_there_are_no_websockets(folder: Path, headers: dict[str, str], closed_with: int) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    told = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "websocket", "path": "/v1/videos", "headers": told, "query_string": b"", "subprotocols": []}
    await application(folder, "{}")(scope, receive, send)
    assert [(message["type"], message.get("code", 1000)) for message in sent] == [("websocket.close", closed_with)]


REQUESTS = [
    ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", {200}),
    ("GET /healthz HTTP/1.1\r\nHost: attacker.example\r\n\r\n", {403}),
    ("GET /healthz HTTP/1.1\r\n\r\n", {400, 403}),
    ("GET /healthz HTTP/1.0\r\n\r\n", {400, 403}),
    ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n", {400, 403}),
    ("GET /healthz HTTP/1.1\r\nHost: attacker.example\r\nHost: localhost\r\n\r\n", {400, 403}),
    ("GET http://localhost/healthz HTTP/1.1\r\nHost: attacker.example\r\n\r\n", {400, 403}),
    ("GET http://attacker.example/healthz HTTP/1.1\r\nHost: attacker.example\r\n\r\n", {400, 403}),
    # No browser sends this to a server that is no proxy; uvicorn shows the application no host but the header's.
    ("GET http://attacker.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", {200, 404}),
    ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: attacker.example\r\n\r\n", {200}),
    ("GET /healthz HTTP/1.1\r\nHost: attacker.example\r\nX-Forwarded-Host: localhost\r\n\r\n", {403}),
    ("CONNECT localhost:80 HTTP/1.1\r\nHost: attacker.example\r\n\r\n", {400, 403}),
    ("OPTIONS * HTTP/1.1\r\nHost: attacker.example\r\n\r\n", {400, 403}),
]


@pytest.mark.parametrize("parser", ["h11", "httptools"])
async def test_requests_as_they_are_sent(folder: Path, parser: str) -> None:
    """By each parser of HTTP that uvicorn has."""
    async with served(front_door(folder), http=parser) as url, asyncio.timeout(30):
        for text, codes in REQUESTS:
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
            writer.write(text.encode())
            line = await reader.readline()
            writer.close()
            assert int(line.split()[1]) in codes, (text, line)


async def test_programs_come_in_as_before(folder: Path) -> None:
    settings = IngressSettings(
        database=f"sqlite:///{folder / 'store.db'}", artifacts=ArtifactSettings(url=str(folder / "a")), auth="none"
    )
    cluster = Cluster(folder).host_models({"wan": Hosted("wan")})
    front = Ingress(settings, cluster.served, TRANSPORT)
    async with served(front) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "wan"
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as theirs:
            assert [model.id async for model in theirs.models.list()] == ["wan"]
        named = await client.get(f"{url.replace('127.0.0.1', 'localhost')}/healthz")
        assert json.loads(named.text) == {"status": "ok"}
