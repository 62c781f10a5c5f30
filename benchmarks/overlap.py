"""Measures how well two stages overlap: the makespan of a clip through both, over its lower bound."""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from ray import serve

from benchmarks.clip import HEIGHT, WIDTH, make_runs
from benchmarks.local_ray import deployed, local_ray
from benchmarks.report import Goal, Report, Row, find_spread, measure_alternately, ratio
from composition.graphs.calls import Handle, Transport, call_in_order, open_stream, stream
from services.frames import Frames
from services.worker import Outlet, Worker

FRAMES = 200
FRAME_S = 0.02
"""Time of each stage per frame, in seconds."""
LENGTHS = (1, 4, 16)
"""Frames per run."""
WINDOWS = (2, 3)
"""Calls to the second stage in flight."""
ROUNDS = 3

THREADS = "two threads"

METHOD = f"""\
Two services that each sleep {FRAME_S * 1000:.0f} ms per frame on their `Worker`'s thread. The first streams
{FRAMES} frames of {WIDTH}×{HEIGHT} uint8 RGB in runs; a graph reads them with `open_stream(stream(…))` and sends
each run to the second, a unary call that returns a run, by `call_in_order` with a window of
{" or ".join(map(str, WINDOWS))} calls. Three replicas of Ray Serve.

Makespan: the time from the graph's first call to the last returned run. Its lower bound is ({FRAMES} + run) ×
{FRAME_S * 1000:.0f} ms: the second stage cannot start before the first has finished a run, and then takes as long as
the first. Without overlap it would be 2 × {FRAMES} × {FRAME_S * 1000:.0f} ms. *{THREADS}*: the same sleeps in one
process, joined by a queue, which shows the error of the machine's timers and its load. {ROUNDS} rounds with alternating
order after a warm-up round; medians, with the extremes in brackets.

Runs of one frame miss the goal for two reasons: a call occupies its place in the window while it waits for its run, so
a window of 2 keeps only one call at the second stage; and the overhead of a hop, a few milliseconds, adds to 20 ms
instead of 80 or 320 ms for runs of 4 or 16."""


class First:
    """The streaming stage."""

    def __init__(self) -> None:
        self._runs = {length: make_runs(length) for length in LENGTHS}
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
        """Return the run after 20 ms per frame."""

        def work(outlet: Outlet[Frames]) -> None:
            _sleep(frames.count, outlet.check)
            outlet.put(Frames(frames.pixels, frames.first, frames.rate))

        async with aclosing(self._worker.stream(work)) as items:
            return await anext(items)


class Graph:
    """Connects both stages."""

    def __init__(self, first: Handle[First], second: Any) -> None:
        self._first = first
        self._process = second.options(method_name="process", _by_reference=True)

    async def run(self, length: int, frames: int, window: int) -> float:
        """Return the makespan in seconds. Raises ValueError if frames are lost or out of order."""
        began = time.perf_counter()
        due = 0
        async with open_stream(stream(self._first, First.generate, length, frames), Transport()) as items:
            turn = asyncio.Lock()  # fair: calls take their runs in the order in which they start

            async def call() -> Frames:
                async with turn:
                    taken = await anext(items)
                return await self._process.remote(taken)

            async with aclosing(call_in_order((call for _ in range(0, frames, length)), window)) as done:
                async for item in done:
                    if item.first != due:
                        raise ValueError(f"expected frame {due}, got frame {item.first}")
                    due = item.stop
        if due != frames:
            raise ValueError(f"received {due} of {frames} frames")
        return time.perf_counter() - began


def measure() -> Report:
    """Run all cases. Takes three minutes, mostly asleep."""
    rows: list[Row] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}
    with local_ray():
        graph = serve.run(deployed(Graph, deployed(First), deployed(Second)), route_prefix=None)

        def served(length: int, window: int) -> float:
            return graph.run.remote(length, FRAMES, window).result()

        for length in LENGTHS:
            ways: dict[str, Callable[[], float]] = {f"window {w}": partial(served, length, w) for w in WINDOWS}
            spans = measure_alternately(ways | {THREADS: partial(_threads, length, FRAMES)}, ROUNDS)
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
    """Return the lower bound of the makespan in seconds."""
    return (FRAMES + length) * FRAME_S


def _row(name: str, length: int, spans: Mapping[str, list[float]]) -> Row:
    return {
        "run": f"{length} frames",
        "": name,
        "makespan (s)": str(find_spread(spans[name])),
        "least (s)": _least(length),
        "over the least": f"{find_spread(spans[name]).median / _least(length):.3f}",
        f"over {THREADS}": "" if name == THREADS else f"{ratio(spans, name, THREADS).median:.3f}",
    }


def _goal(name: str, length: int, spans: Mapping[str, list[float]]) -> Goal:
    value = find_spread(spans[name]).median / _least(length)
    return Goal(f"runs of {length}, {name}: makespan over the least", value, 1.05, at_most=True)
