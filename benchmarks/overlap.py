"""How well two stages overlap: the time a clip takes through both, over the least it could take."""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from ray import serve

from benchmarks.clip import HEIGHT, WIDTH, runs
from benchmarks.local_ray import deployed, local_ray
from benchmarks.report import Goal, Report, Row, alternated, ratio, spread
from composition.graphs.calls import Handle, Transport, in_order, opened, stream
from services.frames import Frames
from services.worker import Outlet, Worker

FRAMES = 200
FRAME_S = 0.02
"""What each stage takes for a frame."""
LENGTHS = (1, 4, 16)
"""Frames in a run."""
WINDOWS = (2, 3)
"""Calls to the second stage in flight."""
ROUNDS = 3

THREADS = "two threads"

METHOD = f"""\
Two services, each of which sleeps {FRAME_S * 1000:.0f} ms a frame on its `Worker`'s thread. The first streams
{FRAMES} frames of {WIDTH}×{HEIGHT} uint8 RGB in runs; a graph reads them with `opened(stream(…))` and gives each run to
the second, a unary call that gives a run back, by `in_order` with a window of {" or ".join(map(str, WINDOWS))} calls.
Three replicas of Ray Serve.

Makespan: from the graph's first call to the last run that comes back. The least it could take is
({FRAMES} + run) × {FRAME_S * 1000:.0f} ms: the second stage cannot begin before the first has made a whole run, and
then needs as long as the first. Without overlap it would be 2 × {FRAMES} × {FRAME_S * 1000:.0f} ms. *{THREADS}* is the
same sleeps in one process, joined by a queue: what the machine's timers and its other load make of it. {ROUNDS} rounds
in which the contenders take turns, after one that does not count; medians, the extremes in brackets.

Where runs of one frame miss the goal: here a call takes its place in the window while it still waits for its run, so of
a window of 2 only one call is at the second stage; and the milliseconds of each hop stand beside 20, not beside 80 or
320 as with runs of 4 or 16."""


class First:
    """The stage that streams."""

    def __init__(self) -> None:
        self._runs = {length: runs(length) for length in LENGTHS}
        self._worker = Worker("first")

    async def generate(self, length: int, frames: int) -> AsyncGenerator[Frames]:
        """Yield `frames` frames in runs of `length`; the last one may be shorter."""
        pixels = self._runs[length]

        def work(outlet: Outlet[Frames]) -> None:
            for index, begin in enumerate(range(0, frames, length)):
                count = min(length, frames - begin)
                _sleep(count, outlet.check)
                outlet.put(Frames(pixels[index % 2][:count], begin))

        async with aclosing(self._worker.stream(work)) as items:
            async for item in items:
                yield item


class Second:
    """The stage that is called for each run."""

    def __init__(self) -> None:
        self._worker = Worker("second")

    async def process(self, frames: Frames) -> Frames:
        """Return the run, as many milliseconds later as it has frames times 20."""

        def work(outlet: Outlet[Frames]) -> None:
            _sleep(frames.count, outlet.check)
            outlet.put(Frames(frames.pixels, frames.first, frames.rate))

        async with aclosing(self._worker.stream(work)) as items:
            return await anext(items)


class Graph:
    """Joins the two."""

    def __init__(self, first: Handle[First], second: Any) -> None:
        self._first = first
        self._process = second.options(method_name="process", _by_reference=True)

    async def run(self, length: int, frames: int, window: int) -> float:
        """Return the makespan in seconds. Raises ValueError when frames are lost or out of order."""
        began = time.perf_counter()
        due = 0
        async with opened(stream(self._first, First.generate, length, frames), Transport()) as items:
            turn = asyncio.Lock()  # it is fair: the calls take their runs in the order in which they begin

            async def call() -> Frames:
                async with turn:
                    taken = await anext(items)
                return await self._process.remote(taken)

            async with aclosing(in_order((call for _ in range(0, frames, length)), window)) as done:
                async for item in done:
                    if item.first != due:
                        raise ValueError(f"frame {item.first} came where {due} was due")
                    due = item.stop
        if due != frames:
            raise ValueError(f"{due} of {frames} frames came")
        return time.perf_counter() - began


def measure() -> Report:
    """Run it. Three minutes, most of them asleep."""
    rows: list[Row] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}
    with local_ray():
        graph = serve.run(deployed(Graph, deployed(First), deployed(Second)), route_prefix=None)

        def served(length: int, window: int) -> float:
            return graph.run.remote(length, FRAMES, window).result()

        for length in LENGTHS:
            ways: dict[str, Callable[[], float]] = {f"window {w}": partial(served, length, w) for w in WINDOWS}
            spans = alternated(ways | {THREADS: partial(_threads, length, FRAMES)}, ROUNDS)
            rows += [_row(name, length, spans) for name in spans]
            goals += [_goal(name, length, spans) for name in ways]
            samples |= {f"{name}, runs of {length}": seconds for name, seconds in spans.items()}
    return Report("Two stages that overlap", METHOD, rows, goals, samples, ("ray", "numpy"))


def _threads(length: int, frames: int) -> float:
    handed: queue.Queue[int] = queue.Queue()
    counts = [min(length, frames - begin) for begin in range(0, frames, length)]

    def first() -> None:
        for count in counts:
            _sleep(count)
            handed.put(count)

    began = time.perf_counter()
    threading.Thread(target=first).start()
    for _ in counts:
        _sleep(handed.get())
    return time.perf_counter() - began


def _sleep(frames: int, check: Callable[[], None] = lambda: None) -> None:
    for _ in range(frames):
        check()
        time.sleep(FRAME_S)


def _least(length: int) -> float:
    """Seconds."""
    return (FRAMES + length) * FRAME_S


def _row(name: str, length: int, spans: Mapping[str, list[float]]) -> Row:
    return {
        "run": f"{length} frames",
        "": name,
        "makespan (s)": str(spread(spans[name])),
        "least (s)": _least(length),
        "over the least": f"{spread(spans[name]).median / _least(length):.3f}",
        f"over {THREADS}": "" if name == THREADS else f"{ratio(spans, name, THREADS).median:.3f}",
    }


def _goal(name: str, length: int, spans: Mapping[str, list[float]]) -> Goal:
    value = spread(spans[name]).median / _least(length)
    return Goal(f"runs of {length}, {name}: makespan over the least", value, 1.05, at_most=True)
