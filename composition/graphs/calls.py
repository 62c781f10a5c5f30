"""Calling other deployments: a stream that is cancelled when it is left, and calls that come back in order."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

from services.errors import ReelError, ServiceBusy, ServiceLost

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Handle: TypeAlias = Any
"""A `ray.serve.handle.DeploymentHandle`. Ray itself is imported only where deployments are bound."""

STOP_TIMEOUT_S = 10.0


class Call(AsyncIterable[T_co], Protocol[T_co]):
    """A stream from another deployment, as a handle gives it."""

    def cancel(self) -> None: ...


class Transport:
    """The exceptions by which the transport says that a call did not get through.

    Args:
        lost: the process that worked on the call died.
        busy: the deployment's queue is full.
    """

    def __init__(self, lost: tuple[type[Exception], ...] = (), busy: tuple[type[Exception], ...] = ()) -> None:
        self.lost = lost
        self.busy = busy


class Part:
    """One of the things that a host holds, a model or a graph, to be called as if it were a deployment of its own.

    Args:
        host: the handle of the deployment.
        name: of the model or graph.
    """

    def __init__(self, host: Handle, name: str) -> None:
        self._host = host
        self._name = name

    def options(self, *, method_name: str, **options: Any) -> "PartMethod":
        """Return the streaming method of that name, to be called by `remote`."""
        return PartMethod(self._host.options(method_name="stream", **options), self._name, method_name)

    def broadcast(self, method: str, *args: object) -> Any:
        """Call a method on every replica."""
        return self._host.broadcast(method, self._name, *args)

    def call(self, method: str) -> Awaitable[Any]:
        """Call a method that returns one value."""
        return self._host.options(method_name=method).remote(self._name)


class PartMethod:
    """A streaming method of a part."""

    def __init__(self, stream_method: Handle, name: str, method: str) -> None:
        self._stream_method = stream_method
        self._name = name
        self._method = method

    def remote(self, *args: object, **options: object) -> Any:
        """Begin the call."""
        return self._stream_method.remote(self._name, self._method, *args, **options)


def stream(handle: Handle, method: str, *args: object, prefers: str = "", **options: object) -> Call[Any]:
    """Begin a streaming call. By reference always: by value, Ray's messages end at 4 MiB, less than a frame.

    Args:
        handle: a deployment's, or a Part.
        method: which of its methods, with its arguments.
        prefers: a replica that was asked with the same before is taken, if one is free.
        options: arguments of the method, by name.
    """
    routing = {"multiplexed_model_id": prefers} if prefers else {}
    return handle.options(method_name=method, stream=True, _by_reference=True, **routing).remote(*args, **options)


@asynccontextmanager
async def open_stream(call: Call[T], transport: Transport) -> AsyncGenerator[AsyncIterator[T]]:
    """Open a stream from another deployment and cancel it when the block is left, however that happens.

    Dropping a Ray stream does not stop its producer, so every stream is opened here.

    Raises:
        ServiceLost: the other process died while it was working for us.
        ServiceBusy: the other deployment's queue is full.
    """
    try:
        yield aiter(call)
    except ReelError:
        raise
    except transport.busy as error:
        raise ServiceBusy("the service's queue is full") from error
    except transport.lost as error:
        raise ServiceLost("the process that was working on this request died") from error
    finally:
        call.cancel()


async def stop_everywhere(handle: Handle, key: str, transport: Transport) -> None:
    """Stop what a dead caller left running under `key`, on whichever replica that is.

    Ray does not cancel an actor's task when its caller dies. A replica that does not answer, or none that does, is no
    reason not to go on: what runs there ends with its clip at the latest.
    """
    with contextlib.suppress(*transport.lost, TimeoutError):
        await handle.broadcast("stop", key).results_async(timeout_s=STOP_TIMEOUT_S, return_exceptions=True)


async def call_in_order(
    calls: AsyncIterable[Callable[[], Awaitable[T]]] | Iterable[Callable[[], Awaitable[T]]], window: int
) -> AsyncGenerator[T]:
    """Start up to `window` calls at a time and yield their results in the order of `calls`, each as soon as it can be.

    The window is the back-pressure: a call is drawn and begun only when the one `window` places before it has been
    taken. What is still running when the iterator is closed is cancelled, and so is the drawing.
    """
    source = _each(calls)
    running: deque[asyncio.Future[T]] = deque()
    drawing: asyncio.Future[Callable[[], Awaitable[T]] | None] | None = None
    drained = False
    try:
        while running or not drained:
            if drawing is None and not drained and len(running) < window:
                drawing = asyncio.ensure_future(_next(source))
            waited: list[asyncio.Future[Any]] = [*([drawing] if drawing else []), *([running[0]] if running else [])]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if drawing is not None and drawing.done():
                call, drawing = drawing.result(), None
                if call is None:
                    drained = True
                else:
                    running.append(asyncio.ensure_future(call()))
            elif running[0].done():
                yield await running.popleft()
    finally:
        left: list[asyncio.Future[Any]] = [*running, *([drawing] if drawing else [])]
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await source.aclose()


async def merge_streams(*sources: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Yield what several generators make, each thing as soon as it is there, until all have ended.

    All are closed when this one is, or when one of them raises.
    """
    drawing = {asyncio.ensure_future(_next(source)): source for source in sources}
    try:
        while drawing:
            ready, _ = await asyncio.wait(drawing, return_when=asyncio.FIRST_COMPLETED)
            for future in ready:
                item = future.result()
                source = drawing.pop(future)
                if item is not None:
                    drawing[asyncio.ensure_future(_next(source))] = source
                    yield item
    finally:
        for future in drawing:
            future.cancel()
        await asyncio.gather(*drawing, return_exceptions=True)
        for source in sources:
            await source.aclose()


async def _each(items: AsyncIterable[T] | Iterable[T]) -> AsyncGenerator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _next(source: AsyncGenerator[T]) -> T | None:
    return await anext(source, None)
