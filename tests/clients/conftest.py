"""A server, both clients of it behind one face, and `reel`."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from video_server import Script, VideoServer, running

from reelgraph import AsyncClient, Client
from reelgraph.cli import app
from reelgraph.flows import Backoff

Reel = Callable[..., Result]
Program = Callable[..., "subprocess.Popen[str]"]

QUICK = Backoff(limit=3, first_s=0.001, longest_s=0.002)
AS_A_PROGRAM = [sys.executable, "-c", "from reelgraph.cli import main; main()"]
WAIT_S = 120


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


@pytest.fixture
def reel(server: VideoServer) -> Reel:
    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(word) for word in arguments], env={"REELGRAPH_URL": server.url})

    return run


@pytest.fixture
def program(server: VideoServer) -> Program:
    def start(*arguments: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*AS_A_PROGRAM, "--url", server.url, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


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
