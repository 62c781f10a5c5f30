"""Turns of decoders: how the processor is shared fairly between the owners of files.

A file says nothing reliable about the processor time that decoding it takes. So each decoder begins at the priority of
its owner's other processes, and what it needs is measured: most files are done before it has used QUICK_CPU_S. If it
uses more, it is suspended in the middle of its operation, has low priority from then on, and each of its operations
waits for one of a small number of slow turns. Turns go to the owner who has had the least, and no owner holds all of
them, so a quick file of another owner is decoded at once, however many slow ones there are.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from composition.media.processors import count_processors
from services.errors import ServiceBusy

QUICK_CPU_S = 0.5
"""Processor time in seconds that a decoder may use before it waits for slow turns."""
SHORTEST_CHECK_S = 0.02
"""Shortest interval in seconds between two measurements of the processor time."""
LEAST_SHARE = 0.1
"""Least part of the time that counts towards a deadline, however busy the machine is."""
LEAST_TURNS = 2
"""Least number of turns: no owner holds all of them."""

T = TypeVar("T")


@dataclass(eq=False)
class _Waiter:
    """Someone who waits for a turn."""

    loop: asyncio.AbstractEventLoop
    granted: asyncio.Future[None]


@dataclass
class _Share:
    """What an owner has of the turns."""

    used_s: float = 0.0
    """Time that the owner has held turns, in seconds, counted from `Turns._level_s` when it came."""
    held: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque[_Waiter])


class Turns:
    """A limited number of turns, which owners share. Thread-safe: its users may run in different event loops.

    A free turn goes to the waiting owner who holds the fewest turns, and among those to the one who has held turns for
    the shortest time. Time without interest in turns is no credit for later. An owner's own calls are served in order.

    Args:
        count: number of turns, at least 2.
        most: maximum number that one owner holds, less than `count`: the rest is kept for owners who may come.
        clock: returns the time in seconds.
    """

    def __init__(self, count: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < most < count:
            raise ValueError(f"most must be between 0 and {count}, got {most}")
        self._free = count
        self._most = most
        self._read_clock = clock
        self._lock = threading.Lock()
        self._shares: dict[str, _Share] = {}
        """Owner → share, for all who hold turns, wait for them, or have used more than the level."""
        self._level_s = 0.0
        """The used time of the owner who had a turn last: where owners begin who come anew."""

    @asynccontextmanager
    async def take(self, owner: str, wait_s: float) -> AsyncGenerator[None]:
        """Hold a turn inside the `with` block.

        Args:
            owner: for whom.
            wait_s: maximum time to wait for it, in seconds.

        Raises:
            ServiceBusy: there was no turn within `wait_s`.
        """
        await self._wait(owner, wait_s)
        began = self._read_clock()
        try:
            yield
        finally:
            self._return_turn(owner, self._read_clock() - began)

    async def _wait(self, owner: str, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop, loop.create_future())
        with self._lock:
            share = self._shares.setdefault(owner, _Share())
            if not share.held and not share.waiting:
                share.used_s = max(share.used_s, self._level_s)
            share.waiting.append(waiter)
            self._grant()
        is_granted = False
        try:
            async with asyncio.timeout(wait_s):
                await waiter.granted
            is_granted = True
        except TimeoutError:
            raise ServiceBusy(
                f"other files are being decoded, and the wait was longer than {wait_s:g} s (turn_wait_s)"
            ) from None
        finally:
            if not is_granted:
                self._withdraw(owner, waiter)

    def _withdraw(self, owner: str, waiter: _Waiter) -> None:
        """End a wait. A turn that was granted meanwhile is returned."""
        with self._lock:
            share = self._shares[owner]
            if waiter in share.waiting:
                share.waiting.remove(waiter)
                self._forget_idle()
                return
        self._return_turn(owner, 0.0)

    def _return_turn(self, owner: str, used_s: float) -> None:
        with self._lock:
            share = self._shares[owner]
            share.held -= 1
            share.used_s += used_s
            self._free += 1
            self._grant()
            self._forget_idle()

    def _grant(self) -> None:
        """Give free turns to those who wait. The lock must be held."""
        while self._free:
            shares = [share for share in self._shares.values() if share.waiting and share.held < self._most]
            if not shares:
                return
            share = min(shares, key=lambda each: (each.held, each.used_s))
            waiter = share.waiting.popleft()
            waiter.loop.call_soon_threadsafe(_wake, waiter.granted)
            share.held += 1
            self._free -= 1
            self._level_s = max(self._level_s, share.used_s)

    def _forget_idle(self) -> None:
        """Forget owners who have no claim and no debt. The lock must be held."""
        idle = [owner for owner, share in self._shares.items() if not share.held and not share.waiting]
        everyone_is_idle = len(idle) == len(self._shares)
        for owner in idle:
            if everyone_is_idle or self._shares[owner].used_s <= self._level_s:
                del self._shares[owner]


def _wake(granted: asyncio.Future[None]) -> None:
    if not granted.done():
        granted.set_result(None)


class PacedProcess(Protocol):
    """A process whose pace is set from outside."""

    def measure_cpu(self) -> float:
        """Return the processor time that it has used, in seconds."""
        ...

    def measure_delay(self) -> float:
        """Return for how long its threads were ready to run while others had the processor, in seconds."""
        ...

    def suspend(self) -> None:
        """Stop it until it is resumed, and lower its priority for good. Returns at once."""
        ...

    def resume(self) -> None:
        """Let it continue. Returns at once."""
        ...


@dataclass(frozen=True)
class Lanes:
    """The turns of decoders that have used little processor time, and those of the others."""

    quick: Turns
    slow: Turns


def make_lanes(processors: int) -> Lanes:
    """Return lanes with a turn for each processor, but at least two, a quarter of which no owner takes from others."""
    count = max(LEAST_TURNS, processors)
    most = count - max(1, count // 4)
    return Lanes(Turns(count, most), Turns(count, most))


decoder_lanes = make_lanes(count_processors())
"""The turns of the decoders of this process."""


class Pace:
    """Runs the operations of one decoder in turns.

    Args:
        process: the decoder.
        owner: whose turns it takes.
        wait_s: maximum time to wait for a turn, in seconds.
        lanes: the turns.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        process: PacedProcess,
        owner: str,
        wait_s: float,
        lanes: Lanes = decoder_lanes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process = process
        self._owner = owner
        self._wait_s = wait_s
        self._lanes = lanes
        self._read_clock = clock
        self._is_slow = False
        self._is_suspended = False

    def expect(self, cpu_s: float) -> None:
        """Spare a decoder that is known to need this much processor time its quick turns."""
        if not self._is_slow and cpu_s > QUICK_CPU_S:
            self._slow_down()

    async def run(self, operate: Callable[[], Coroutine[Any, Any, T]], deadline_s: float) -> T:
        """Run an operation, and return what it returns. If it is not completed, the decoder may be left suspended.

        Args:
            operate: sends a request to the decoder and receives its answer.
            deadline_s: maximum duration of the operation in seconds, without the time in which it waits for turns or
                for a processor that others use.

        Raises:
            TimeoutError: the operation took longer than `deadline_s`.
            ServiceBusy: there was no turn.
        """
        watch = _StopWatch(self._process, self._read_clock)
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(self._take_turn())
            async with _running(operate()) as work:
                watch.start()
                if not self._is_slow:
                    await self._wait(work, watch, deadline_s, QUICK_CPU_S)
                    if not work.done():
                        self._slow_down()
                        watch.stop()
                        await turn.aclose()
                        await turn.enter_async_context(self._take_turn())
                        watch.start()
                self._resume()
                await self._wait(work, watch, deadline_s)
                return work.result()

    def _slow_down(self) -> None:
        self._process.suspend()
        self._is_slow = self._is_suspended = True

    def _resume(self) -> None:
        if self._is_suspended:
            self._process.resume()
            self._is_suspended = False

    def _take_turn(self) -> AbstractAsyncContextManager[None]:
        lane = self._lanes.slow if self._is_slow else self._lanes.quick
        return lane.take(self._owner, self._wait_s)

    async def _wait(
        self, work: asyncio.Task[Any], watch: "_StopWatch", deadline_s: float, cpu_s: float = math.inf
    ) -> None:
        """Wait until the work is done or the decoder has used `cpu_s`. Raises TimeoutError."""
        while not work.done():
            left_s, quick_s = deadline_s - watch.read(), cpu_s - self._process.measure_cpu()
            if quick_s <= 0:
                return
            if left_s <= 0:
                raise TimeoutError
            await asyncio.wait([work], timeout=max(SHORTEST_CHECK_S, min(left_s, quick_s / 2)))


class _StopWatch:
    """Measures for how long a decoder could work: not while it is suspended, or others have the processor.

    A decoder of low priority may wait for the processor much longer than it works.
    """

    def __init__(self, process: PacedProcess, clock: Callable[[], float]) -> None:
        self._process = process
        self._read_clock = clock
        self._passed_s = 0.0
        self._began: tuple[float, float] | None = None

    def start(self) -> None:
        self._began = self._read_clock(), self._process.measure_delay()

    def stop(self) -> None:
        self._passed_s, self._began = self.read(), None

    def read(self) -> float:
        """Return the seconds so far, at least a tenth of what a clock on the wall says."""
        if self._began is None:
            return self._passed_s
        wall_s, delay_s = self._read_clock() - self._began[0], self._process.measure_delay() - self._began[1]
        return self._passed_s + max(wall_s - delay_s, wall_s * LEAST_SHARE)


@asynccontextmanager
async def _running(operation: Coroutine[Any, Any, T]) -> AsyncGenerator[asyncio.Task[T]]:
    """Run an operation in a task, which has ended when the block is left."""
    task = asyncio.create_task(operation)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # marks it as seen
