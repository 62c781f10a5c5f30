"""Calls to other deployments: what is left is cancelled, what comes back is in order, what fails says how."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from composition.graphs.calls import Handle, Transport, ask, call_in_order, open_stream, stop_everywhere, stream
from services.errors import ServiceBusy, ServiceLost, UndecodableMedia
from services.frames import Fact, Item
from tests.composition.serving import HostHandle


class Gone(Exception):
    """Stands for the transport's own exception."""


class Full(Exception):
    """Likewise."""


TRANSPORT = Transport(lost=(Gone,), busy=(Full,))


class Stream:
    """A call as a handle gives it: numbers, then an error if there is one."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error, self.cancelled = count, error, False

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self.count):
            yield number
        if self.error is not None:
            raise self.error

    def cancel(self) -> None:
        self.cancelled = True


async def test_a_stream_is_cancelled_however_it_is_left() -> None:
    whole, broken, left = Stream(3), Stream(1, UndecodableMedia("x")), Stream(9)
    async with open_stream(whole, TRANSPORT) as items:
        assert [item async for item in items] == [0, 1, 2]
    with pytest.raises(UndecodableMedia):
        async with open_stream(broken, TRANSPORT) as items:
            [item async for item in items]
    async with open_stream(left, TRANSPORT) as items:
        assert await anext(items) == 0
    assert (whole.cancelled, broken.cancelled, left.cancelled) == (True, True, True)


async def test_a_task_that_is_cancelled_cancels_its_stream() -> None:
    stream, reached = Stream(1), asyncio.Event()

    async def follow() -> None:
        async with open_stream(stream, TRANSPORT):
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(follow())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.cancelled


@pytest.mark.parametrize(
    ("error", "becomes"), [(Gone(), ServiceLost), (Full(), ServiceBusy), (ValueError(), ValueError)]
)
async def test_the_transports_errors_become_ours(error: Exception, becomes: type[Exception]) -> None:
    with pytest.raises(becomes):
        async with open_stream(Stream(0, error), TRANSPORT) as items:
            [item async for item in items]


async def test_calls_come_back_in_order_and_no_more_than_the_window_run() -> None:
    running = most = 0

    def call(number: int):
        async def work() -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(7 - number % 5):  # later ones are ready sooner
                await asyncio.sleep(0)
            running -= 1
            return number

        return work

    got = [item async for item in call_in_order((call(n) for n in range(20)), window=3)]
    assert got == list(range(20))
    assert most == 3


async def test_what_runs_when_the_order_is_left_is_cancelled() -> None:
    ended: list[int] = []

    def call(number: int):
        async def work() -> int:
            try:
                if number:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(number)
                raise
            return number

        return work

    results = call_in_order((call(n) for n in range(9)), window=3)
    assert await anext(results) == 0
    await asyncio.sleep(0)
    await results.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    assert ended == [1, 2, 3][: len(ended)]
    assert ended


async def test_a_result_is_given_while_the_next_call_is_still_being_drawn() -> None:
    drawn = asyncio.Event()

    async def calls() -> AsyncGenerator[Callable[[], Awaitable[int]]]:
        yield lambda: asyncio.sleep(0, 1)
        await drawn.wait()
        yield lambda: asyncio.sleep(0, 2)

    async with asyncio.timeout(60), aclosing(call_in_order(calls(), window=3)) as results:
        assert await anext(results) == 1
        drawn.set()
        assert [result async for result in results] == [2]


async def test_when_the_order_is_left_nothing_more_is_drawn() -> None:
    ended: list[str] = []

    async def calls() -> AsyncGenerator[Callable[[], Awaitable[int]]]:
        try:
            yield lambda: asyncio.sleep(0, 1)
            await asyncio.Event().wait()
        finally:
            ended.append("source")

    async with aclosing(call_in_order(calls(), window=3)) as results:
        await anext(results)
    assert ended == ["source"]


async def test_an_error_of_the_source_comes_behind_what_was_begun() -> None:
    async def calls() -> AsyncGenerator[Callable[[], Awaitable[int]]]:
        yield lambda: asyncio.sleep(0, 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise ValueError("no more")

    async with aclosing(call_in_order(calls(), window=3)) as results:
        assert await anext(results) == 1
        with pytest.raises(ValueError, match="no more"):
            await anext(results)


# Parts of a host.


class Twins:
    """A model that says which of two it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped: list[str] = []

    async def paint(self, *asked: object, **options: object) -> AsyncGenerator[Item]:
        yield Fact(self.name, f"{asked} {options}")

    async def stop(self, key: str) -> None:
        self.stopped.append(key)

    async def info(self) -> str:
        return self.name


async def test_a_part_of_a_host_is_called_as_if_it_stood_alone() -> None:
    twins = {name: Twins(name) for name in ("left", "right")}
    host = HostHandle(twins)
    twin: Handle[Twins] = Handle(host, "right")
    async with open_stream(stream(twin.prefer("a+b"), Twins.paint, 1, 2, key="job"), TRANSPORT) as items:
        assert [item async for item in items] == [Fact("right", "(1, 2) {'key': 'job'}")]
    assert host.models["right"].preferred == ["a+b"]
    assert [call.cancelled for call in host.models["right"].calls] == [True]
    await stop_everywhere(twin, "job", TRANSPORT)
    assert [each.stopped for each in twins.values()] == [[], ["job"]]
    assert await ask(twin, Twins.info) == "right"
    assert host.models["left"].calls == []
