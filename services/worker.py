"""The thread that a model runs on.

Ray frees a request's slot before the cancelled step has ended, so this thread, not `max_ongoing_requests`, limits a GPU
to one request at a time: work is queued here, and each piece ends before the next begins.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

from services.errors import Cancelled, DeviceFailed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What a replica has loaded, and its state."""

    name: str
    source: str
    """Where its weights come from: a repository, or `path:FOLDER`."""
    revision: str
    replica: str
    """The replica's name and its devices, e.g. `wan#x1y2z3 cuda:0`."""
    busy: bool
    """Whether its thread is at work."""
    rate: Fraction | None = None
    """Frames per second of its videos, where the checkpoint decides and not the request."""


class Outlet(Generic[T]):
    """Takes the items of blocking work, and tells it of a cancellation."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stop = threading.Event()
        self.items: asyncio.Queue[T | None] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Hand one item to the stream. Raises Cancelled when the stream was closed."""
        self.check()
        self._send(item)

    def check(self) -> None:
        """Raise Cancelled when the stream was closed. Call it between any two steps."""
        if self._stop.is_set():
            raise Cancelled("the request was cancelled")

    def stop(self) -> None:
        self._stop.set()

    def end(self) -> None:
        self._send(None)

    def _send(self, item: T | None) -> None:
        self._loop.call_soon_threadsafe(self.items.put_nowait, item)


class Worker:
    """Runs blocking functions one at a time, and streams what each puts out."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._open: dict[str, Outlet[Any]] = {}
        self._lost: DeviceFailed | None = None
        self.busy = False
        """Whether the thread is at work."""

    async def stream(self, work: Callable[[Outlet[T]], None], key: str = "") -> AsyncGenerator[T]:
        """Yield what `work(outlet)` puts out, until it returns; raise what it raises.

        Closing the stream makes the next `outlet.put` or `outlet.check` raise Cancelled in the thread, and returns
        when the thread has come to rest. A stream opened with the key of a running one stops the older one:
        its caller must have died.
        """
        outlet: Outlet[T] = Outlet(asyncio.get_running_loop())
        self.stop(key)
        if key:
            self._open[key] = outlet
        running = self._thread.submit(self._run, work, outlet)
        ended = asyncio.wrap_future(running)
        ended.add_done_callback(_retrieve_error)
        try:
            while (item := await outlet.items.get()) is not None:
                yield item
            await asyncio.shield(ended)
        finally:
            outlet.stop()
            if self._open.get(key) is outlet:
                del self._open[key]
            if not running.cancel():  # it has begun: what comes next on this thread must wait for it, and so do we
                await asyncio.shield(asyncio.wait([ended]))

    def stop(self, key: str) -> None:
        """Cancel the stream that was opened with `key`, if it still runs."""
        outlet = self._open.get(key) if key else None
        if outlet is not None:
            outlet.stop()

    def check(self) -> None:
        """Raise DeviceFailed when an earlier request left the device unusable."""
        if self._lost is not None:
            raise self._lost

    def _run(self, work: Callable[[Outlet[T]], None], outlet: Outlet[T]) -> None:
        self.busy = True
        try:
            outlet.check()
            work(outlet)
        except DeviceFailed as error:
            self._lost = error
            raise
        finally:
            self.busy = False
            outlet.end()


def _retrieve_error(ended: asyncio.Future[None]) -> None:
    """Retrieve the error of abandoned work, which asyncio would otherwise log as never retrieved."""
    if not ended.cancelled():
        ended.exception()
