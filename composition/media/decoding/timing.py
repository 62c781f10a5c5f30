"""The time of each frame of a video: a constant frame rate where the times allow one, else the times themselves."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

SHORT_S, USUAL_S = Fraction(1, 100), Fraction(1, 10)
"""Browsers show a frame of an animation for the second duration if its own is the first or less."""
JITTER = Fraction(1, 1000)
"""Seconds by which the times of a constant frame rate may be rounded, e.g. to milliseconds in Matroska."""
NTSC = Fraction(1000, 1001)
"""Ratio of the frame rates of NTSC to whole ones."""
ROUNDING = Fraction(1, 100_000)
"""Largest error of a frame rate in a header that has it as a duration, e.g. in nanoseconds."""
MAX_DENOMINATOR = 1_000_000
"""Largest denominator of an average frame rate, with which FFmpeg's 32-bit fractions hold it."""
USUAL_RATE = Fraction(25)
"""Frames per second of a video that does not say."""
MIN_RATE = Fraction(1, 100_000)
"""Lowest frame rate, in frames per second."""

Ticks = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Timing:
    """When the frames of a video are shown."""

    rate: Fraction
    """Frames per second; the average if the frame rate is variable."""
    time_base: Fraction = Fraction(1)
    """Seconds of one tick."""
    ticks: Ticks | None = None
    """Ticks from the first frame to the beginning of each frame and to the end of the last one; None if the frame rate
    is constant."""

    @property
    def is_variable(self) -> bool:
        """Whether the frame rate is variable."""
        return self.ticks is not None

    def measure_duration(self, frames: int) -> Fraction:
        """Return the seconds from the first frame to the end of the last of `frames`."""
        return frames / self.rate if self.ticks is None else int(self.ticks[-1]) * self.time_base

    def list_ticks(self, start: int, count: int) -> list[int] | None:
        """Return `count` + 1 ticks for the frames from `start` on; None if the frame rate is constant.

        Frames that a decoder found beyond those of the index follow at the average rate.
        """
        if self.ticks is None:
            return None
        known = self.ticks[start : start + count + 1].tolist()
        last = int(self.ticks[-1])
        step = max(1, round(1 / (self.rate * self.time_base)))
        beyond = max(start, len(self.ticks)) - len(self.ticks)
        return known + [last + step * (beyond + n + 1) for n in range(count + 1 - len(known))]


def time_frames(
    pts: list[int], end: int | None, time_base: Fraction, declared: Iterable[Fraction | None], *, is_exact: bool
) -> Timing:
    """Return the timing of frames that are shown at `pts`.

    Args:
        pts: increasing presentation times, in ticks.
        end: when the last frame ends, in ticks; None if the file does not say.
        time_base: seconds of one tick.
        declared: frame rates that the file may have according to its header.
        is_exact: whether `end` counts as it is. Otherwise half a frame more or less is no difference.
    """
    starts = np.array(pts, np.int64) - pts[0]
    if end is None or end <= pts[-1]:
        end, is_exact = None, False
    ticks = starts if end is None else np.append(starts, end - pts[0])
    if len(ticks) == 1:
        return Timing(next(filter(None, declared), USUAL_RATE))
    spaced = ticks if is_exact or len(starts) == 1 else starts
    rate = _find_constant_rate(spaced, time_base, declared)
    if rate is not None:
        step = 1 / (rate * time_base)
        if spaced is ticks or end is None or abs(end - pts[0] - len(pts) * step) <= step / 2:
            return Timing(rate)
    if end is None:
        ticks = np.append(ticks, 2 * ticks[-1] - ticks[-2])
    average = len(pts) / (int(ticks[-1]) * time_base)
    return Timing(max(MIN_RATE, average.limit_denominator(MAX_DENOMINATOR)), time_base, ticks)


def _find_constant_rate(ticks: Ticks, time_base: Fraction, declared: Iterable[Fraction | None]) -> Fraction | None:
    """Return the frames per second if every time is rounded from one frame rate; None if the frame rate is variable.

    Times are rounded to ticks, or to what they are multiples of, e.g. to milliseconds.
    """
    grid = int(np.gcd.reduce(np.diff(ticks)))
    tolerance = float(min(grid, JITTER / time_base)) + 1e-3
    for rate in filter(None, _propose_rates(ticks, time_base, declared)):
        step = float(1 / (rate * time_base))
        if np.abs(ticks - np.arange(len(ticks)) * step).max() <= tolerance:
            return rate
    return None


def _propose_rates(ticks: Ticks, time_base: Fraction, declared: Iterable[Fraction | None]) -> Iterator[Fraction | None]:
    """Yield frame rates that evenly spaced frames may have: those of the header, then usual ones, then the average."""
    for rate in filter(None, declared):
        usual = (Fraction(round(rate)), round(rate / NTSC) * NTSC)
        yield from (near for near in usual if abs(near / rate - 1) < ROUNDING)
        yield rate
    average = (len(ticks) - 1) / (int(ticks[-1]) * time_base)
    yield Fraction(round(average))
    yield round(average / NTSC) * NTSC
    yield average.limit_denominator(12)
    yield max(MIN_RATE, average.limit_denominator(MAX_DENOMINATOR))
