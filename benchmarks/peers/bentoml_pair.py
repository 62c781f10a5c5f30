"""Two bentoml services joined by `bentoml.depends`. Run by `bentoml serve benchmarks.peers.bentoml_pair:Sink`.

Uses bentoml's fastest transport: calls that return arrays (pickled with out-of-band buffers, over a Unix socket),
several in flight. Its byte streams are split into chunks of 8 KiB and are about half as fast.
"""
# pyright: reportMissingImports=false

import asyncio
import time
from collections import deque

import bentoml
import numpy as np

from benchmarks.clip import make_runs, read_pages

WINDOW = 3
"""Calls in flight."""


# The client closes its session after `max_requests`, with the calls in flight: the limit must not be reached.
@bentoml.service(workers=1, runner_connection={"max_requests": 2**31})
class Source:
    """Holds the frames."""

    def __init__(self) -> None:
        self._runs = {length: make_runs(length) for length in (4, 16)}

    @bentoml.api
    async def run(self, index: int, length: int) -> np.ndarray:
        """Return run number `index`, (length, 720, 1280, 3) uint8."""
        return self._runs[length][index % 2]


@bentoml.service(workers=1, traffic={"timeout": 120})
class Sink:
    """Consumes the frames."""

    source = bentoml.depends(Source)

    @bentoml.api
    async def take(self, length: int, frames: int) -> dict[str, float]:
        """Consume `frames` frames in runs of `length`; return the seconds and the sum of the bytes read."""
        began = time.perf_counter()
        total = 0
        flying: deque[asyncio.Future[np.ndarray]] = deque()
        for index in range(frames // length):
            if len(flying) == WINDOW:
                total += read_pages(await flying.popleft())
            flying.append(asyncio.ensure_future(self.source.run(index=index, length=length)))
        while flying:
            total += read_pages(await flying.popleft())
        return {"seconds": time.perf_counter() - began, "sum": total}
