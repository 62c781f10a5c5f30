"""Calling other deployments: a stream that is cancelled when it is left, and calls that come back in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from services.errors import ServiceLost

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Call(AsyncIterable[T_co], Protocol[T_co]):
    """A stream from another deployment, as a handle gives it."""

    def cancel(self) -> None: ...


@asynccontextmanager
async def opened(call: Call[T], lost: tuple[type[Exception], ...]) -> AsyncGenerator[AsyncIterator[T]]:
    """Open a stream from another deployment and cancel it when the block is left, however that happens.

    Dropping a Ray stream does not stop its producer, so every stream is opened here.

    Args:
        call: what `handle.method.remote(...)` returned.
        lost: the exception types by which the transport says that the other process is gone.

    Raises:
        ServiceLost: the other process died while it was working for us.
    """
    try:
        yield aiter(call)
    except lost as error:
        raise ServiceLost("the process that was working on this request died") from error
    finally:
        call.cancel()


async def in_order(calls: Iterable[Callable[[], Awaitable[T]]], window: int) -> AsyncIterator[T]:
    """Start up to `window` calls at a time and yield their results in the order of `calls`.

    The window is the back-pressure: a call is begun only when the one `window` places before it has been taken.
    What is still running when the iterator is closed is cancelled.
    """
    running: deque[asyncio.Future[T]] = deque()
    try:
        for call in calls:
            if len(running) >= window:
                yield await running.popleft()
            running.append(asyncio.ensure_future(call()))
        while running:
            yield await running.popleft()
    finally:
        for left in running:
            left.cancel()
