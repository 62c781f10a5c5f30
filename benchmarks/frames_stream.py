"""Measures frames per second from a service to a graph, against plain Ray and two other serving frameworks."""

import http.client
import json
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve

from benchmarks.clip import FRAME_BYTES, HEIGHT, WIDTH, make_runs, read_pages, sum_clip
from benchmarks.local_ray import deployed, free_port, local_ray
from benchmarks.peers import venv
from benchmarks.report import Goal, Report, Row, find_spread, measure_alternately, ratio
from composition.graphs.calls import Handle, Transport, open_stream, stream
from services.frames import Frames
from services.worker import Outlet, Worker

FRAMES = 400
LENGTHS = (16, 4)
"""Frames per run."""
RAY_ROUNDS = 25
PEER_ROUNDS = 7
STORE_BYTES = 3 << 30

OURS = "reelgraph"
RAW = "Ray, async actor"
RAW_SYNC = "Ray, sync actor"
BENTOML = "bentoml"
LITSERVE = "litserve"

Taken: TypeAlias = Mapping[str, float]
"""Report of a consumer: `seconds` from the call to the last frame, and the `sum` of the bytes read."""
Take: TypeAlias = Callable[[int, int], Taken]
"""Receives a clip: (frames per run, frames) → report."""

METHOD = f"""\
A producer process sends {FRAMES} frames of {WIDTH}×{HEIGHT} uint8 RGB (noise) to a consumer process in runs, and the
consumer reads one byte of every page. Frames per second are measured in the consumer, from its call to the last frame.
The contenders alternate in {RAY_ROUNDS} rounds against plain Ray and {PEER_ROUNDS} against the other frameworks, after
a warm-up round; medians, with the extremes in brackets. Ratios are per round; above 1, reelgraph is faster.

- reelgraph: a service that streams from its `Worker` to a graph that reads with `open_stream(stream(…))`, two replicas
  of Ray Serve.
- {RAW}, {RAW_SYNC}: a streaming generator method of an actor, consumed by another actor that awaits each
  reference. The pages of the object store are allocated beforehand, as they are for reelgraph.
- {BENTOML}: two services joined by `bentoml.depends`; calls that return arrays, three in flight.
- {LITSERVE}: a server that streams one frame per chunk to a client that reads each run into an array."""


class Source:
    """A service with blocking work on its worker's thread, which emits run by run."""

    def __init__(self) -> None:
        self._runs = {length: make_runs(length) for length in LENGTHS}
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
    """A graph that consumes the stream of the service."""

    def __init__(self, source: Handle[Source]) -> None:
        self._source = source

    async def take(self, length: int, frames: int) -> Taken:
        began = time.perf_counter()
        total = 0
        async with open_stream(stream(self._source, Source.generate, length, frames), Transport()) as items:
            async for item in items:
                total += read_pages(item.pixels)
        return {"seconds": time.perf_counter() - began, "sum": total}


class RawSource:
    """Sends the same arrays from an async actor."""

    def __init__(self) -> None:
        self._runs = {length: make_runs(length) for length in LENGTHS}

    async def generate(self, length: int, frames: int) -> AsyncIterator[NDArray[np.uint8]]:
        for index in range(frames // length):
            yield self._runs[length][index % 2]


class RawSourceSync:
    """Sends the same arrays from an actor without an event loop."""

    def __init__(self) -> None:
        self._runs = {length: make_runs(length) for length in LENGTHS}

    def generate(self, length: int, frames: int) -> Iterator[NDArray[np.uint8]]:
        for index in range(frames // length):
            yield self._runs[length][index % 2]


class RawSink:
    """Awaits each reference of the stream."""

    async def take(self, source: Any, length: int, frames: int) -> Taken:
        began = time.perf_counter()
        total = 0
        async for reference in source.generate.options(num_returns="streaming").remote(length, frames):
            total += read_pages(await reference)
        return {"seconds": time.perf_counter() - began, "sum": total}


def measure() -> Report:
    """Run all comparisons. Takes two minutes and 4 GiB; the first time, it installs the peers."""
    versions = venv.prepare()
    rows: list[Row] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}

    def compare(takers: Mapping[str, Take], rounds: int, least: float) -> None:
        for length in LENGTHS:
            rates = measure_alternately({name: _rate(take, length) for name, take in takers.items()}, rounds)
            samples.update({f"{name} with {', '.join(takers)}; {length}": rates[name] for name in takers})
            for other in list(takers)[1:]:
                rows.append(_row(other, length, rates))
                goals.append(Goal(f"runs of {length}: times {other}", ratio(rates, OURS, other).median, least))

    with local_ray(STORE_BYTES):
        ours, rays = _rays()
        compare({OURS: ours} | rays, RAY_ROUNDS, 0.9)
        with _bentoml() as bentoml, _litserve() as litserve:
            compare({OURS: ours, BENTOML: bentoml, LITSERVE: litserve}, PEER_ROUNDS, 1.0)
    return Report("Frames between two deployments", METHOD, rows, goals, samples, ("ray", "numpy"), versions)


def _rays() -> tuple[Take, dict[str, Take]]:
    graph = serve.run(deployed(Sink, deployed(Source)), route_prefix=None)
    raw, raw_sync, sink = (_actor(cls) for cls in (RawSource, RawSourceSync, RawSink))

    def ours(length: int, frames: int) -> Taken:
        return graph.take.remote(length, frames).result()

    return ours, {
        RAW: lambda length, frames: ray.get(sink.take.remote(raw, length, frames)),
        RAW_SYNC: lambda length, frames: ray.get(sink.take.remote(raw_sync, length, frames)),
    }


def _actor(cls: type) -> Any:
    return cast("Any", ray.remote(num_cpus=0.1))(cls).remote()


@contextmanager
def _bentoml() -> Iterator[Take]:
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
def _litserve() -> Iterator[Take]:
    port = str(free_port())

    def take(length: int, frames: int) -> Taken:
        client = [venv.PYTHON, "-m", "benchmarks.peers.litserve_client", port, str(length), str(frames)]
        return json.loads(subprocess.run(client, cwd=venv.ROOT, check=True, capture_output=True).stdout)

    command = ["python", "-m", "benchmarks.peers.litserve_server", port]
    with venv.served(command, f"http://127.0.0.1:{port}/health"):
        yield take


def _rate(take: Take, length: int) -> Callable[[], float]:
    """Return a measurement of frames per second. It raises ValueError if other frames arrive than were sent."""
    expected = sum_clip(length, FRAMES)

    def go() -> float:
        taken = take(length, FRAMES)
        if taken["sum"] != expected:
            raise ValueError(f"the frames received are not the frames sent: {taken}")
        return FRAMES / taken["seconds"]

    return go


def _row(other: str, length: int, rates: Mapping[str, list[float]]) -> Row:
    figures = {name: find_spread(rates[name]) for name in (OURS, other)}
    return {
        "run": f"{length} frames",
        "against": other,
        "its frames/s": str(figures[other]),
        "its MB/s": figures[other].median * FRAME_BYTES / 1e6,
        "our frames/s": str(figures[OURS]),
        "our MB/s": figures[OURS].median * FRAME_BYTES / 1e6,
        "ours over its": str(ratio(rates, OURS, other)),
    }
