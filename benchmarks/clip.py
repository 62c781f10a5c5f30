"""The frames that all contenders transfer. Needs only numpy, as the peers' programs import it too."""

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 1280, 720
FRAME_BYTES = HEIGHT * WIDTH * 3
PAGE_BYTES = 4096


def make_runs(length: int) -> list[NDArray[np.uint8]]:
    """Return two different runs of noise, each (length, 720, 1280, 3) uint8, to be sent alternately."""
    noise = np.random.default_rng(length)
    return [noise.integers(0, 256, (length, HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(2)]


def read_pages(pixels: NDArray[np.uint8]) -> int:
    """Read one byte of every page and return their sum, so that no contender can pass unmapped memory."""
    return int(pixels.reshape(-1)[::PAGE_BYTES].sum(dtype=np.int64))


def sum_clip(length: int, frames: int) -> int:
    """Return the sum of `read_pages` over a clip of `frames` frames sent in runs of `length`."""
    sums = [read_pages(run) for run in make_runs(length)]
    return sum(sums[i % 2] for i in range(frames // length))
