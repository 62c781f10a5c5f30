"""A server, and both clients of it behind one face."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from video_server import Script, VideoServer, running

from clients import AsyncClient, Client
from clients.flows import Backoff

QUICK = Backoff(limit=3, first_s=0.001, longest_s=0.002)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(scope="session")
def lasting() -> Iterator[VideoServer]:
    with running(Script()) as server:
        yield server


@pytest.fixture
def server(lasting: VideoServer, script: Script) -> VideoServer:
    lasting.begin(script)
    return lasting


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "in.mp4"
    path.write_bytes(b"a clip" * 1000)
    return path


class Blocking:
    """Client, whose answers need nothing more."""

    def __init__(self) -> None:
        self.kind = Client

    def take(self, answer: Any) -> Any:
        """The answer; of an iteration, all of it."""
        return list(answer) if isinstance(answer, Iterator) else answer

    def open(self, url: str, **options: Any) -> Any:
        return Client(url, backoff=QUICK, **options)

    def close(self, client: Client) -> None:
        client.close()


class Looping:
    """AsyncClient, driven by a loop of its own, so that one test serves both."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner

    def take(self, answer: Any) -> Any:
        return self._runner.run(_all(answer) if isinstance(answer, AsyncIterator) else _one(answer))

    def open(self, url: str, **options: Any) -> Any:
        return AsyncClient(url, backoff=QUICK, **options)

    def close(self, client: AsyncClient) -> None:
        self._runner.run(client.close())


async def _one(answer: Awaitable[Any]) -> Any:
    return await answer


async def _all(answer: AsyncIterator[Any]) -> list[Any]:
    return [entry async for entry in answer]


@pytest.fixture(params=["sync", "async"], scope="session")
def way(request: pytest.FixtureRequest) -> Iterator[Blocking | Looping]:
    if request.param == "sync":
        yield Blocking()
    else:
        with asyncio.Runner() as runner:
            yield Looping(runner)


@pytest.fixture(scope="session")
def lasting_client(way: Blocking | Looping, lasting: VideoServer) -> Iterator[Any]:
    client = way.open(lasting.url)
    yield client
    way.close(client)


@pytest.fixture
def client(lasting_client: Any, server: VideoServer) -> Any:
    assert server.url
    return lasting_client
