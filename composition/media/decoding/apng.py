"""The exact durations of the frames of an APNG, of which FFmpeg's demuxer rounds each."""

import io
import math
import struct
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

from composition.media.decoding.timing import SHORT_S, USUAL_S, Timing, time_frames

MAX_BASE = 10**9
"""Largest denominator of a time base."""
FRAME_CONTROL_BYTES = 26


def time_apng(source: str | bytes, frames: int) -> Timing | None:
    """Return when the first `frames` frames are shown; None if the file does not say it exactly.

    Args:
        source: path or content of the file.
        frames: number of frames that can be decoded.
    """
    durations = _list_durations(source)[:frames]
    base = math.lcm(*(duration.denominator for duration in durations))
    if not frames or len(durations) < frames or base > MAX_BASE:
        return None
    times = [0, *accumulate(int(duration * base) for duration in durations)]
    return time_frames(times[:-1], times[-1], Fraction(1, base), [], is_exact=True)


def _list_durations(source: str | bytes) -> list[Fraction]:
    """Return the duration in seconds for which browsers show each frame."""
    durations: list[Fraction] = []
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind == b"fcTL" and size == FRAME_CONTROL_BYTES:
                control = file.read(size).ljust(size, b"\0")
                duration = Fraction(*_read_delay(control))
                durations.append(duration if duration > SHORT_S else USUAL_S)
                size = 0
            file.seek(size + 4, io.SEEK_CUR)
    return durations


def _read_delay(control: bytes) -> tuple[int, int]:
    """Return numerator and denominator of the delay in a frame control chunk."""
    numerator, denominator = struct.unpack_from(">HH", control, 20)
    return numerator, denominator or 100
