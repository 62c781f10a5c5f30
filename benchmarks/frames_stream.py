"""Frames per second from a service to a graph, against Ray alone and against two other serving frameworks."""

import http.client
import json
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve

from benchmarks.clip import FRAME_BYTES, HEIGHT, WIDTH, runs, touched, whole
from benchmarks.local_ray import deployed, free_port, local_ray
from benchmarks.peers import venv
from benchmarks.report import Goal, Report, Row, alternated, ratio, spread
from composition.calls import Handle, Transport, opened, stream
from services.frames import Frames
from services.worker import Outlet, Worker

FRAMES = 400
LENGTHS = (16, 4)
"""Frames in a run."""
ROUNDS = 9
TURN_S = 1.0
"""A turn goes on until so much has been measured."""
STORE_BYTES = 3 << 30

OURS = "reelgraph"
RAW = "Ray, async actor"
RAW_SYNC = "Ray, sync actor"
BENTOML = "bentoml"
LITSERVE = "litserve"

Taken: TypeAlias = Mapping[str, float]
"""What a consumer says: `seconds` from the call to the last frame, and the `sum` of the bytes it touched."""

METHOD = f"""\
A producer process hands {FRAMES} frames of {WIDTH}×{HEIGHT} uint8 RGB (noise) to a consumer process in runs, and the
consumer reads one byte of every page. Measured in the consumer, from its call to the last frame, again and again until
{TURN_S:g} s have gone by. {ROUNDS} rounds in which the contenders take turns, after one that does not count; medians,
the extremes in brackets. Ratios are of the same round. All contenders' processes are up all the time.

- {OURS}: a service that streams from its `Worker` to a graph that reads with `opened(stream(…))`, two replicas of Ray
  Serve.
- {RAW}, {RAW_SYNC}: a streaming generator method of an actor, consumed by another actor that awaits each reference.
  The object store's pages are in place beforehand, for reelgraph as for these.
- {BENTOML}: two services joined by `bentoml.depends`; calls that return arrays, three in flight.
- {LITSERVE}: a server that streams a frame a chunk to a client that reads each run into an array."""


class Source:
    """A service as all are: blocking work on its worker's thread, put out run by run."""

    def __init__(self) -> None:
        self._runs = {length: runs(length) for length in LENGTHS}
        self._worker = Worker("source")

    async def generate(self, length: int, frames: int) -> AsyncGenerator[Frames]:
        """Yield `frames` frames in runs of `length`."""
        pixels = self._runs[length]

        def work(outlet: Outlet[Frames]) -> None:
            for index in range(frames // length):
                outlet.put(Frames(pixels[index % 2], index * length))

        async with aclosing(self._worker.stream(work)) as items:
            async for item in items:
                yield item


class Sink:
    """A graph that takes what the service makes."""

    def __init__(self, source: Handle) -> None:
        self._source = source

    async def take(self, length: int, frames: int) -> Taken:
        began = time.perf_counter()
        total = 0
        async with opened(stream(self._source, "generate", length, frames), Transport()) as items:
            async for item in items:
                total += touched(item.pixels)
        return {"seconds": time.perf_counter() - began, "sum": total}


class RawSource:
    """The same arrays from an async actor."""

    def __init__(self) -> None:
        self._runs = {length: runs(length) for length in LENGTHS}

    async def generate(self, length: int, frames: int) -> AsyncIterator[NDArray[np.uint8]]:
        for index in range(frames // length):
            yield self._runs[length][index % 2]


class RawSourceSync:
    """The same arrays from an actor without an event loop."""

    def __init__(self) -> None:
        self._runs = {length: runs(length) for length in LENGTHS}

    def generate(self, length: int, frames: int) -> Iterator[NDArray[np.uint8]]:
        for index in range(frames // length):
            yield self._runs[length][index % 2]


class RawSink:
    """Awaits each reference of the stream."""

    async def take(self, source: Any, length: int, frames: int) -> Taken:
        began = time.perf_counter()
        total = 0
        async for reference in source.generate.options(num_returns="streaming").remote(length, frames):
            total += touched(await reference)
        return {"seconds": time.perf_counter() - began, "sum": total}


def measure() -> Report:
    """Run it. Two minutes, 4 GiB; the first time it installs the peers."""
    versions = venv.prepare()
    rows: list[Row] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}
    with ExitStack() as stack:
        takers = _rays(stack) | {
            BENTOML: stack.enter_context(_bentoml()),
            LITSERVE: stack.enter_context(_litserve()),
        }
        for length in LENGTHS:
            rates = alternated({name: _rate(take, length) for name, take in takers.items()}, ROUNDS)
            rows += [_row(name, length, rates) for name in takers]
            goals += _goals(length, rates)
            samples |= {f"{name}, runs of {length}": figures for name, figures in rates.items()}
    return Report("Frames between two deployments", METHOD, rows, goals, samples, ("ray", "numpy"), versions)


def _rays(stack: ExitStack) -> dict[str, Callable[[int, int], Taken]]:
    stack.enter_context(local_ray(STORE_BYTES))
    graph = serve.run(deployed(Sink, deployed(Source)), route_prefix=None)
    raw, raw_sync, sink = (_actor(cls) for cls in (RawSource, RawSourceSync, RawSink))
    return {
        OURS: lambda length, frames: graph.take.remote(length, frames).result(),
        RAW: lambda length, frames: ray.get(sink.take.remote(raw, length, frames)),
        RAW_SYNC: lambda length, frames: ray.get(sink.take.remote(raw_sync, length, frames)),
    }


def _actor(cls: type) -> Any:
    return cast("Any", ray.remote(num_cpus=0.1))(cls).remote()


@contextmanager
def _bentoml() -> Iterator[Callable[[int, int], Taken]]:
    port = free_port()

    def take(length: int, frames: int) -> Taken:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        body = json.dumps({"length": length, "frames": frames})
        connection.request("POST", "/take", body, {"content-type": "application/json"})
        return json.load(connection.getresponse())

    command = ["bentoml", "serve", "benchmarks.peers.bentoml_pair:Sink", "--host", "127.0.0.1", "--port", str(port)]
    with venv.served(command, f"http://127.0.0.1:{port}/readyz"):
        yield take


@contextmanager
def _litserve() -> Iterator[Callable[[int, int], Taken]]:
    port = str(free_port())

    def take(length: int, frames: int) -> Taken:
        client = [venv.PYTHON, "-m", "benchmarks.peers.litserve_client", port, str(length), str(frames)]
        return json.loads(subprocess.run(client, cwd=venv.ROOT, check=True, capture_output=True).stdout)

    command = ["python", "-m", "benchmarks.peers.litserve_server", port]
    with venv.served(command, f"http://127.0.0.1:{port}/health"):
        yield take


def _rate(take: Callable[[int, int], Taken], length: int) -> Callable[[], float]:
    """Frames per second of one turn. Raises ValueError when it is not the clip that arrives."""
    expected = whole(length, FRAMES)

    def turn() -> float:
        frames, seconds = 0, 0.0
        while seconds < TURN_S:
            taken = take(length, FRAMES)
            if taken["sum"] != expected:
                raise ValueError(f"the frames that arrived are not those that were sent: {taken}")
            frames, seconds = frames + FRAMES, seconds + taken["seconds"]
        return frames / seconds

    return turn


def _row(name: str, length: int, rates: Mapping[str, list[float]]) -> Row:
    figures = spread(rates[name])
    return {
        "run": f"{length} frames",
        "contender": name,
        "frames/s": str(figures),
        "MB/s": figures.median * FRAME_BYTES / 1e6,
        "reelgraph is, times": "" if name == OURS else str(ratio(rates, OURS, name)),
    }


def _goals(length: int, rates: Mapping[str, list[float]]) -> list[Goal]:
    limits = {RAW: 0.9, RAW_SYNC: 0.9, BENTOML: 1.0, LITSERVE: 1.0}
    return [
        Goal(f"runs of {length}: times {name}", ratio(rates, OURS, name).median, limit)
        for name, limit in limits.items()
    ]
