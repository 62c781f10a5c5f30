"""The thread on which a model runs.

Ray releases the slot of a cancelled request before its current step has ended. So this thread, not
`max_ongoing_requests`, limits a GPU to one request at a time: it runs the queued functions one after another.
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
    """The loaded model of a replica, and its state."""

    name: str
    source: str
    """Source of the weights: a repository, or `path:FOLDER`."""
    revision: str
    replica: str
    """Name of the replica and its devices, e.g. `wan#x1y2z3 node=10.0.0.1 gpu=0`."""
    busy: bool
    """Whether a request is running."""
    rate: Fraction | None = None
    """Frames per second of the videos, if the checkpoint determines it, not the request."""


class Outlet(Generic[T]):
    """Passes items from a blocking function to its stream, and cancellations to the function."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stop = threading.Event()
        self.items: asyncio.Queue[T | None] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Add an item to the stream. Raises Cancelled if the stream was closed."""
        self.check()
        self._send(item)

    def check(self) -> None:
        """Raise Cancelled if the stream was closed. Call this method between steps."""
        if self._stop.is_set():
            raise Cancelled("the request was cancelled")

    def stop(self) -> None:
        self._stop.set()

    def end(self) -> None:
        self._send(None)

    def _send(self, item: T | None) -> None:
        self._loop.call_soon_threadsafe(self.items.put_nowait, item)


class Worker:
    """Runs blocking functions one at a time, and streams their items."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._open: dict[str, Outlet[Any]] = {}
        self._lost: DeviceFailed | None = None
        self.busy = False
        """Whether a function is running."""

    async def stream(self, work: Callable[[Outlet[T]], None], key: str = "") -> AsyncGenerator[T]:
        """Yield the items that `work(outlet)` puts until it returns; raise its errors.

        Closing the stream makes the next `outlet.put` or `outlet.check` raise Cancelled in the thread, and waits until
        `work` has ended. A stream with the key of a running stream stops that one, whose caller must have died.
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
            if not running.cancel():  # it is running, and the thread must be free before the next stream
                await asyncio.shield(asyncio.wait([ended]))

    def stop(self, key: str) -> None:
        """Cancel the stream that was opened with `key`, if it is still running."""
        outlet = self._open.get(key) if key else None
        if outlet is not None:
            outlet.stop()

    def check(self) -> None:
        """Raise DeviceFailed if an earlier request left the device unusable."""
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
