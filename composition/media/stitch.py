"""Joining clips into one video: each is resized, resampled to the video's frame rate and cross-faded with the next.

A clip of n frames lasts n / rate seconds, or `Fit.seconds`. Frame j of the clip in the video shows the clip at the time
j / `Fit.rate`, so the clip takes ceil(seconds * `Fit.rate`) frames; if the rates are equal, each frame is shown once.
Frames with times of their own are shown when they are due.
Times are exact fractions: no frame is lost or doubled by rounding, and the result does not depend on how the clip is
divided into runs.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from fractions import Fraction
from itertools import accumulate, repeat
from math import ceil, floor

import numpy as np

from composition.media.decoding.pixels import RUN_BYTES
from composition.media.encode import resize_frames
from services.errors import ModelFailed
from services.frames import MAX_RUN, Fit, Frames, Pixels

CHUNK = 1 << 15
"""Samples mixed at a time, few enough to stay in the processor's cache."""
MAX_DENOMINATOR = 1 << 22
"""Largest denominator of a mixing weight for which the sums fit into 32 bits."""


def count_clip_frames(frames: int, rate: Fraction, fit: Fit) -> int:
    """Return the number of frames that a clip takes in the video, including its cross-fades.

    Args:
        frames: number of frames of the clip, at least 1.
        rate: frame rate of the clip, in frames per second.
        fit: size, rate, duration and cross-fade of the clip in the video.
    """
    return ceil((frames / rate if fit.seconds is None else fit.seconds) * fit.rate)


def count_joined_frames(clips: Sequence[tuple[int, Fraction, Fit]]) -> int:
    """Return the number of frames of the video that joins `clips`, each given as (frames, rate, fit)."""
    counts = [count_clip_frames(*clip) for clip in clips]
    halves = [_limit_crossfade(count, fit) for count, (_, _, fit) in zip(counts, clips, strict=True)]
    return sum(counts) - sum(map(min, halves, halves[1:]))


def list_clip_starts(clips: Sequence[tuple[int, Fraction, Fit]]) -> list[int]:
    """Return at which frame of the joined video the first frame of each clip appears; see `count_joined_frames`."""
    counts = [count_clip_frames(*clip) for clip in clips]
    halves = [_limit_crossfade(count, fit) for count, (_, _, fit) in zip(counts, clips, strict=True)]
    fades = map(min, halves, halves[1:])
    return [*accumulate((count - fade for count, fade in zip(counts, fades, strict=False)), initial=0)]


def _limit_crossfade(count: int, fit: Fit) -> int:
    """Return the most frames, out of `count`, that a clip may share in one cross-fade: at most half of the clip."""
    return min(fit.crossfade, count // 2)


class Stitcher:
    """Joins clips into one stream of frames, numbered from 0.

    A cross-fade mixes the last frames of a clip with the first frames of the next, and shortens the video by that many.
    Its length is the smaller `Fit.crossfade` of the two clips, at most half of either. Memory holds the frames of one
    cross-fade, one run of the clip and one run of the video.
    """

    def __init__(self) -> None:
        self._video: tuple[int, int, Fraction] | None = None
        self._run: Pixels | None = None
        self._filled = 0
        self._emitted = 0
        self._held: deque[Pixels] = deque()
        self.border = 0, 0
        """Index of the first frame of the last clip that was added, and of the first one behind its cross-fade."""

    async def add_clip(self, runs: AsyncGenerator[Frames], frames: int, fit: Fit) -> AsyncGenerator[Frames]:
        """Append a clip, and yield the frames of the video that are ready, in runs of 1 to 16 frames.

        The last frames, which the next cross-fade may need, are held back until the next clip or `flush`.

        Args:
            runs: the frames of the clip, from its beginning; closed when this generator ends.
            frames: expected number of frames. With `Fit.seconds`, exactly this many are spread over that time: if some
                are missing, the last frame is repeated, and surplus frames are dropped. Otherwise all frames are shown,
                and the number only limits the cross-fade.
            fit: size, rate, duration and cross-fade; size and rate must be the same for all clips.

        Raises:
            ModelFailed: the clip has no frames.
            ValueError: the size or rate differs from the previous clip's, or a value is out of range.
        """
        self._check_clip(frames, fit)
        part: _Clip | None = None
        async with aclosing(runs):
            async for run in runs:
                if part is None:
                    part = _Clip(frames, run.rate, fit, self._held)
                    behind = self._emitted + len(self._held)
                    self.border = behind - part.fade, behind
                ready = part.crossfade(part.resample(run))
                del run  # so that it is freed as soon as `ready` ends, before the next run is received
                while await asyncio.to_thread(self._fill_run, ready):
                    yield self._take_run()
                if part.is_complete:
                    break
        if part is None:
            raise ModelFailed("a clip of the video has no frames")
        ready = part.finish()
        while await asyncio.to_thread(self._fill_run, ready):
            yield self._take_run()
        if self._filled:
            yield self._take_run()
        self._held = part.held

    def flush(self) -> Iterator[Frames]:
        """Yield the frames that were held back for a cross-fade; call it after the last clip."""
        held, self._held = self._held, deque()
        ready = _drain(held)
        while self._fill_run(ready):
            yield self._take_run()
        if self._filled:
            yield self._take_run()

    def _check_clip(self, frames: int, fit: Fit) -> None:
        if frames < 1 or fit.crossfade < 0 or (fit.seconds is not None and fit.seconds <= 0):
            raise ValueError(
                f"frames and seconds must be positive, crossfade at least 0, got {frames} frames and {fit}"
            )
        video = fit.width, fit.height, fit.rate
        if self._video not in (None, video):
            raise ValueError(f"fit: width, height and rate must be {self._video}, got {video}")
        self._video = video

    def _fill_run(self, frames: Iterator[Pixels]) -> bool:
        """Copy frames into the next run, whose length depends on their size. Return whether the run is full."""
        for frame in frames:
            if self._run is None:
                most = min(MAX_RUN, max(1, RUN_BYTES // frame.nbytes))
                self._run = np.empty((most, *frame.shape), np.uint8)
            self._run[self._filled] = frame
            self._filled += 1
            if self._filled == len(self._run):
                return True
        return False

    def _take_run(self) -> Frames:
        if self._run is None or self._video is None:
            raise AssertionError("there is no frame in the run")
        run = Frames(self._run[: self._filled], self._emitted, self._video[2])
        self._emitted += run.count
        self._run, self._filled = None, 0
        return run


class _Clip:
    """A clip that is being added. Frames are single, (h, w, 3) uint8.

    Args:
        frames: expected number of frames.
        rate: frame rate of the clip, in frames per second.
        fit: size, rate, duration and cross-fade of the clip in the video.
        before: the frames that the previous clip held back; consumed.
    """

    def __init__(self, frames: int, rate: Fraction, fit: Fit, before: deque[Pixels]) -> None:
        self.held: deque[Pixels] = deque()
        """The frames held back for the next cross-fade."""
        self._fit = fit
        self._length = None if fit.seconds is None else count_clip_frames(frames, rate, fit)
        self._step = (1 if fit.seconds is None else frames / rate / fit.seconds) / fit.rate
        """Seconds of the clip per frame of the video."""
        self._before = before
        self._max_held = _limit_crossfade(count_clip_frames(frames, rate, fit), fit)
        self.fade = min(self._max_held, len(before))
        """Length of the cross-fade from the previous clip."""
        self._emitted = 0
        """Frames of the video produced so far."""
        self._received = 0
        """Frames of the clip received so far."""
        self._last: Pixels | None = None
        """The last frame received, resized."""
        self._times: list[Fraction] = []
        """When the frames appear in the clip, from the one before the current run on, and when the last disappears."""
        self._oldest = 0
        """Index of the frame of the first of these times."""

    @property
    def is_complete(self) -> bool:
        """Whether all frames that the clip takes in the video have been produced."""
        return self._length is not None and self._emitted >= self._length

    def resample(self, run: Frames) -> Iterator[Pixels]:
        """Receive a run of the clip, and yield the frames of the video that it completes."""
        first, stop = self._received, self._received + run.count
        self._times = [*self._times[-2:-1], *run.list_times()]
        self._oldest = max(0, first - 1)
        positions = range(self._emitted, self._count_ready())
        wanted = {stop - 1} | {
            index for position in positions for index in self._list_sources(position) if index >= first
        }
        chosen = run if len(wanted) == run.count else _select_frames(run, sorted(wanted), first)
        sources = dict(zip(sorted(wanted), fit_frames(chosen, self._fit.width, self._fit.height).pixels, strict=True))
        if self._last is not None:
            sources[first - 1] = self._last
        self._received = stop
        for position in positions:
            self._emitted = position + 1
            before, *after = (sources[index] for index in self._list_sources(position))
            yield mix_frames(before, after[0], self._locate(position) % 1) if after else before
        self._last = sources[stop - 1].copy()  # a copy, so that the run is freed

    def finish(self) -> Iterator[Pixels]:
        """Yield the remaining frames, repeating the last one where some are missing, except those held back."""
        length = ceil(self._times[-1] / self._step) if self._length is None else self._length
        missing = max(length, self.fade) - self._emitted
        self._emitted += missing
        if self._last is not None:
            yield from self.crossfade(repeat(self._last, missing))
        while len(self.held) > self._emitted - self.fade:
            yield self.held.popleft()

    def crossfade(self, frames: Iterator[Pixels]) -> Iterator[Pixels]:
        """Mix the first frames with those of the previous clip, and hold back the last ones for the next clip."""
        while len(self._before) > self.fade:
            yield self._before.popleft()
        for frame in frames:
            result = frame
            if self._before:
                weight = 1 - Fraction(len(self._before), self.fade + 1)
                result = mix_frames(self._before.popleft(), frame, weight)
            if self._max_held == 0:
                yield result
                continue
            self.held.append(result if result.base is None else result.copy())
            if len(self.held) > self._max_held:
                yield self.held.popleft()

    def _count_ready(self) -> int:
        """Return how many frames of the video can be produced from the frames received so far."""
        *_, last, end = self._times
        ready = floor(last / self._step) + 1 if self._fit.blend else ceil(end / self._step)
        return ready if self._length is None else min(ready, self._length)

    def _locate(self, position: int) -> Fraction:
        """Return the index of the frame of the clip that a frame of the video shows, and how far it has come."""
        time = position * self._step
        before = bisect_right(self._times, time, hi=len(self._times) - 1) - 1
        begin, end = self._times[before : before + 2]
        return self._oldest + before + (time - begin) / (end - begin)

    def _list_sources(self, position: int) -> tuple[int, ...]:
        """Return the indices of the one or two frames of the clip that give a frame of the video."""
        place = self._locate(position)
        index = floor(place)
        return (index, index + 1) if self._fit.blend and place != index else (index,)


def _select_frames(run: Frames, indices: list[int], first: int) -> Frames:
    return Frames(run.pixels[[index - first for index in indices]])


def fit_frames(frames: Frames, width: int, height: int) -> Frames:
    """Resize frames to fit into `width` × `height` pixels, keeping their aspect ratio and padding with black."""
    scale = min(Fraction(width, frames.width), Fraction(height, frames.height))
    across, down = max(1, round(frames.width * scale)), max(1, round(frames.height * scale))
    sized = resize_frames(frames, across, down)
    if (across, down) == (width, height):
        return sized
    left, top = (width - across) // 2, (height - down) // 2
    pixels = np.zeros((frames.count, height, width, 3), np.uint8)
    pixels[:, top : top + down, left : left + across] = sized.pixels
    return Frames(pixels, frames.first, frames.rate, frames.times)


def mix_frames(before: Pixels, after: Pixels, weight: Fraction) -> Pixels:
    """Return `before * (1 - weight) + after * weight`, halves rounded up. Both are uint8 arrays of the same shape.

    The integer arithmetic is exact for weights with a denominator of at most MAX_DENOMINATOR; other weights are rounded
    to the nearest such fraction.
    """
    near = weight.limit_denominator(MAX_DENOMINATOR)
    share, whole = near.numerator, near.denominator
    wide = np.uint16 if 511 * whole < 1 << 16 else np.uint32
    out = np.empty(before.shape, np.uint8)
    left, right, result = before.reshape(-1), after.reshape(-1), out.reshape(-1)
    sums, terms = np.empty(CHUNK, wide), np.empty(CHUNK, wide)
    for offset in range(0, result.size, CHUNK):
        chunk = slice(offset, offset + CHUNK)
        count = len(result[chunk])
        a, b = sums[:count], terms[:count]
        np.multiply(left[chunk], wide(2 * (whole - share)), out=a)
        np.multiply(right[chunk], wide(2 * share), out=b)
        a += b
        a += wide(whole)
        a //= wide(2 * whole)
        result[chunk] = a
    return out


def _drain(frames: deque[Pixels]) -> Iterator[Pixels]:
    while frames:
        yield frames.popleft()
