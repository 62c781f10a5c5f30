"""Signals of a video's quality that need no reference: how bright, how varied and how different each frame is.

They are measured on a grid of cells, each the mean of a few pixels, so that a frame of any size costs about the same.
Only the cells of the last frame are remembered, so a measurement can go on after any frame. All sums are of integers
and therefore exact: the values do not depend on how the frames are divided into runs.
"""

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.frames import Pixels

ROWS, COLUMNS = 24, 32
"""Cells of the grid."""
TAPS = 3
"""Each cell is the mean of TAPS × TAPS pixels, spread evenly over it."""
SAMPLES = ROWS * COLUMNS * 3
"""Values of a frame: three channels of each cell."""
DIGITS = 3
"""Decimal places of the values."""
RIDGE = 0.25
"""Variance in levels² that is added to that of each channel, so that flat frames can be compared."""

Origin: TypeAlias = Literal["made", "shot", "fade", "given"]
"""Where a frame comes from: a model made it, it is also the first one of a new shot (a change of the picture is asked
for), it is part of a cross-fade, or a user gave it."""
Cells: TypeAlias = NDArray[np.uint16]
"""(n, ROWS * COLUMNS, 3): sums of the TAPS × TAPS pixels of each cell."""
Numbers: TypeAlias = NDArray[np.float64]
Compared: TypeAlias = tuple[float, float, float] | tuple[None, None, None]
"""`change`, `peak` and `residual` of a frame."""


@dataclass(frozen=True, slots=True)
class FrameSignals:
    """The signals of a frame, in levels of 0 to 255. Those that compare it with the previous frame are None for the
    first frame."""

    origin: Origin
    seconds: float
    """How long the frame is shown."""
    means: tuple[float, float, float]
    """Mean of red, green and blue."""
    spreads: tuple[float, float, float]
    """Standard deviation of red, green and blue over the cells."""
    extent: float
    """Difference of the largest and the smallest cell, in the channel where it is largest."""
    change: float | None = None
    """Mean absolute difference from the previous frame."""
    peak: float | None = None
    """Difference from the previous frame in the cell where it is largest."""
    residual: float | None = None
    """Root mean square difference from the previous frame that no change of all colours (a linear map) explains: how
    much of the picture moved or was replaced."""

    @property
    def brightness(self) -> float:
        """Mean of all channels."""
        return round(sum(self.means) / 3, DIGITS)

    @property
    def contrast(self) -> float:
        """Mean spread of the channels."""
        return round(sum(self.spreads) / 3, DIGITS)

    def to_row(self) -> list[Any]:
        """Return the signals as a list for JSON."""
        compared = (self.change, self.peak, self.residual)
        return [self.origin, self.seconds, *self.means, *self.spreads, self.extent, *compared]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Self:
        """Return the signals of a list that `to_row` made."""
        origin, seconds, red, green, blue, *rest = row
        return cls(origin, seconds, (red, green, blue), (rest[0], rest[1], rest[2]), *rest[3:])


def pack_signals(frames: Sequence[FrameSignals], state: str) -> dict[str, Any]:
    """Return what is stored with a segment: the signals of its frames, and the state of the meter after them."""
    return {"frames": [frame.to_row() for frame in frames], "state": state}


def unpack_signals(parts: Iterable[Mapping[str, Any]]) -> list[FrameSignals]:
    """Return the signals of all frames of consecutive segments; see `pack_signals`."""
    return [FrameSignals.from_row(row) for part in parts for row in part["frames"]]


class SignalMeter:
    """Measures the frames of a video in order.

    Args:
        state: `state` after the previous frame; empty before the first.
    """

    def __init__(self, state: str = "") -> None:
        self._last: Cells | None = None
        if state:
            data = zlib.decompress(base64.b64decode(state))
            self._last = np.frombuffer(data, np.uint16).reshape(1, ROWS * COLUMNS, 3)

    @property
    def state(self) -> str:
        """What the next frame is compared with: the cells of the last frame, compressed, in base64; about 5 KB."""
        return "" if self._last is None else base64.b64encode(zlib.compress(self._last.tobytes(), 1)).decode()

    def measure(self, pixels: Pixels, origins: Sequence[Origin], seconds: Sequence[float]) -> list[FrameSignals]:
        """Return the signals of the next frames.

        Args:
            pixels: the frames, (n, h, w, 3), at least one.
            origins: where each comes from.
            seconds: how long each is shown.
        """
        cells = _sum_cells(pixels)
        known = 0 if self._last is None else 1
        steps = cells if self._last is None else np.concatenate((self._last, cells))
        moments = Moments.count(steps)
        compared: list[Compared] = [(None, None, None)] * (1 - known) + _compare(steps, moments)
        self._last = cells[-1:].copy()
        spreads = np.sqrt(np.diagonal(moments.own, axis1=1, axis2=2))[known:]
        columns = zip(origins, seconds, moments.means[known:], spreads, moments.extents[known:], compared, strict=True)
        return [
            FrameSignals(origin, shown, _round(mean), _round(spread), round(float(extent), DIGITS), *values)
            for origin, shown, mean, spread, extent, values in columns
        ]


def _round(values: Numbers) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), DIGITS) for value in values)
    return red, green, blue


@lru_cache(maxsize=8)
def _place_taps(height: int, width: int) -> NDArray[np.intp]:
    """Return the indices of the pixels that are read, in a frame of `height` × `width` pixels in one row.

    The first tap of all cells comes first, then the second of all cells, and so on.
    """
    down = ((np.arange(ROWS * TAPS) + 0.5) * height / (ROWS * TAPS)).astype(np.intp).reshape(ROWS, TAPS)
    across = ((np.arange(COLUMNS * TAPS) + 0.5) * width / (COLUMNS * TAPS)).astype(np.intp).reshape(COLUMNS, TAPS)
    places = down.T[:, None, :, None] * width + across.T[None, :, None, :]
    return places.reshape(-1)


def _sum_cells(pixels: Pixels) -> Cells:
    count, height, width, _ = pixels.shape
    taps = _place_taps(height, width)
    cells = np.empty((count, SAMPLES), np.uint16)
    for frame, target in zip(pixels, cells, strict=True):
        read = frame.reshape(-1, 3).take(taps, axis=0).reshape(TAPS * TAPS, -1)
        read.sum(axis=0, dtype=np.uint16, out=target)
    return cells.reshape(count, ROWS * COLUMNS, 3)


@dataclass(frozen=True, slots=True)
class Moments:
    """Means, covariances and extents of frames, in levels."""

    means: Numbers
    """(n, 3)."""
    own: Numbers
    """(n, 3, 3): covariances of the channels of a frame."""
    cross: Numbers
    """(n - 1, 3, 3): covariances of the channels of a frame with those of the next one."""
    extents: Numbers
    """(n,): difference of the largest and the smallest cell, in the channel where it is largest."""

    @classmethod
    def count(cls, cells: Cells) -> "Moments":
        """Return the moments of the cells of n frames.

        Sums of products of integers below 2**53 are exact in float64, in whichever order they are added.
        """
        planes = np.ascontiguousarray(cells.transpose(0, 2, 1), np.float64)
        count = planes.shape[2]
        sums = planes.sum(axis=2)
        extents = (planes.max(axis=2) - planes.min(axis=2)).max(axis=1) / TAPS**2
        turned = planes.transpose(0, 2, 1)
        scale = (count * TAPS * TAPS) ** 2
        own = (count * (planes @ turned) - sums[:, :, None] * sums[:, None, :]) / scale
        cross = (count * (planes[:-1] @ turned[1:]) - sums[:-1, :, None] * sums[1:, None, :]) / scale
        return cls(sums / (count * TAPS * TAPS), own, cross, extents)


def _compare(steps: Cells, moments: Moments) -> list[Compared]:
    """Return `change`, `peak` and `residual` of each frame except the first."""
    differences = np.abs(np.diff(steps.view(np.int16), axis=0)).reshape(len(steps) - 1, SAMPLES)
    changes = differences.sum(axis=1, dtype=np.int64) / (SAMPLES * TAPS**2)
    peaks = differences.max(axis=1, initial=0) / TAPS**2
    before, after, cross = moments.own[:-1], moments.own[1:], moments.cross
    maps = np.linalg.solve(before + RIDGE * np.eye(3), cross)
    turned = maps.transpose(0, 2, 1)
    left = after - 2 * (turned @ cross) + turned @ before @ maps
    residuals = np.sqrt(np.maximum(0, np.diagonal(left, axis1=1, axis2=2).mean(axis=1)))
    columns = zip(changes, peaks, residuals, strict=True)
    return [
        (round(float(change), DIGITS), round(float(peak), DIGITS), round(float(residual), DIGITS))
        for change, peak, residual in columns
    ]
