"""Clips, one after the other, as one video: made to fit its size and its time, and faded into each other.

A clip of n frames lasts n / rate, or `Fit.seconds`. Its frame j in the video shows what the clip shows j / `Fit.rate`
after its beginning, so it is shown in ceil(seconds * `Fit.rate`) frames; at the video's own rate, in just its own.
Times are fractions: no frame is lost or doubled by rounding, and the runs that a clip comes in make no difference.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from fractions import Fraction
from itertools import repeat
from math import ceil, floor

import numpy as np

from composition.media.decoding.pixels import RUN_BYTES
from composition.media.encode import resize_frames
from services.errors import ModelFailed
from services.frames import MAX_RUN, Fit, Frames, Pixels

CHUNK = 1 << 15
"""Samples that are mixed at a time: they stay in the processor's cache."""
MAX_DENOMINATOR = 1 << 22
"""The greatest denominator of a mix; with it the sums still fit into 32 bits."""


def count_clip_frames(frames: int, rate: Fraction, fit: Fit) -> int:
    """In how many frames of the video a clip is shown, those of its cross-fades included.

    Args:
        frames: of the clip, 1 or more.
        rate: of the clip, in frames per second.
        fit: what it is made to suit.
    """
    return ceil((frames / rate if fit.seconds is None else fit.seconds) * fit.rate)


def count_joined_frames(clips: Sequence[tuple[int, Fraction, Fit]]) -> int:
    """How many frames the video of these clips has: (frames, rate, fit) of each, as `shown` takes them."""
    counts = [count_clip_frames(*clip) for clip in clips]
    halves = [_limit_crossfade(count, fit) for count, (_, _, fit) in zip(counts, clips, strict=True)]
    return sum(counts) - sum(map(min, halves, halves[1:]))


def _limit_crossfade(count: int, fit: Fit) -> int:
    """The most frames, out of `count`, in which a clip may be mixed with the one before it or behind it."""
    return min(fit.crossfade, count // 2)


class Stitcher:
    """Joins clips into one stream of frames, numbered from 0.

    A cross-fade mixes the last frames of a clip with the first ones of the next, so that the video is shorter by these.
    Its length is the smaller `Fit.crossfade` of the two, and at most half of either clip; all of it follows from the
    numbers of frames. Memory holds the frames of one cross-fade, one run of the source, and one of the video.
    """

    def __init__(self) -> None:
        self._video: tuple[int, int, Fraction] | None = None
        self._run: Pixels | None = None
        self._filled = 0
        self._emitted = 0
        self._held: deque[Pixels] = deque()

    async def add_clip(self, runs: AsyncGenerator[Frames], frames: int, fit: Fit) -> AsyncGenerator[Frames]:
        """Yield what is ready of the video when this clip comes next, in runs of 1 to 16 frames.

        As much as its next cross-fade can need is held back for the next clip, or for `rest`.

        Args:
            runs: the clip from its beginning; closed when this ends.
            frames: how many there are, as far as is known. With `Fit.seconds` just so many are spread over that time:
                the last one stays where some are missing, and what is beyond them is not shown. Without it the clip
                lasts as long as its frames do, and the number serves for the cross-fade alone.
            fit: of one size and rate for all clips.

        Raises:
            ModelFailed: the clip has no frames.
            ValueError: another size or rate than that of the clip before, or a number that cannot be.
        """
        self._check_clip(frames, fit)
        part: _Clip | None = None
        async with aclosing(runs):
            async for run in runs:
                part = part or _Clip(frames, run.rate, fit, self._held)
                ready = part.crossfade(part.resample(run))
                del run  # it can go as soon as `ready` has ended, before the next one comes
                while await asyncio.to_thread(self._fill, ready):
                    yield self._take_run()
                if part.is_complete:
                    break
        if part is None:
            raise ModelFailed("a clip of the video has no frames")
        ready = part.finish()
        while await asyncio.to_thread(self._fill, ready):
            yield self._take_run()
        if self._filled:
            yield self._take_run()
        self._held = part.held

    def flush(self) -> Iterator[Frames]:
        """Yield what was held back for a next clip, and hold nothing any more."""
        held, self._held = self._held, deque()
        ready = _drain(held)
        while self._fill(ready):
            yield self._take_run()
        if self._filled:
            yield self._take_run()

    def _check_clip(self, frames: int, fit: Fit) -> None:
        if frames < 1 or fit.crossfade < 0 or (fit.seconds is not None and fit.seconds <= 0):
            raise ValueError(f"a clip needs a frame, a time and no negative cross-fade, got {frames} frames and {fit}")
        video = fit.width, fit.height, fit.rate
        if self._video not in (None, video):
            raise ValueError(f"the video is {self._video}, and a clip is to fit {video}")
        self._video = video

    def _fill(self, frames: Iterator[Pixels]) -> bool:
        """Put single frames into the run to come, which is short where they are large. Return whether it is full."""
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
            raise AssertionError("a run is taken only after a frame was put into it")
        run = Frames(self._run[: self._filled], self._emitted, self._video[2])
        self._emitted += run.count
        self._run, self._filled = None, 0
        return run


class _Clip:
    """One clip on its way into the video. Frames are single, (h, w, 3) uint8.

    Args:
        frames: of the clip.
        rate: of the clip, in frames per second.
        fit: what it is made to suit.
        before: the end of the clip before it, as long as that can be mixed; it is emptied.
    """

    def __init__(self, frames: int, rate: Fraction, fit: Fit, before: deque[Pixels]) -> None:
        self.held: deque[Pixels] = deque()
        """The end of this clip, once it has ended."""
        self._fit = fit
        self._length = None if fit.seconds is None else count_clip_frames(frames, rate, fit)
        self._step = (rate if fit.seconds is None else frames / fit.seconds) / fit.rate
        """Frames of the clip in the time of one of the video."""
        self._before = before
        self._max_held = _limit_crossfade(count_clip_frames(frames, rate, fit), fit)
        self._fade = min(self._max_held, len(before))
        self._emitted = 0
        """Frames of the video so far."""
        self._received = 0
        """Frames of the clip so far."""
        self._last: Pixels | None = None
        """Of the clip."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing of the clip that is yet to come would be shown."""
        return self._length is not None and self._emitted >= self._length

    def resample(self, run: Frames) -> Iterator[Pixels]:
        """Yield the frames of the video that can be made now."""
        first, stop = self._received, self._received + run.count
        places = range(self._emitted, self._count_ready(stop))
        wanted = {stop - 1} | {index for place in places for index in self._list_sources(place) if index >= first}
        chosen = run if len(wanted) == run.count else _select_frames(run, sorted(wanted), first)
        there = dict(zip(sorted(wanted), fit_frames(chosen, self._fit.width, self._fit.height).pixels, strict=True))
        if self._last is not None:
            there[first - 1] = self._last
        self._received = stop
        for place in places:
            self._emitted = place + 1
            before, *after = (there[index] for index in self._list_sources(place))
            yield mix_frames(before, after[0], place * self._step % 1) if after else before
        self._last = there[stop - 1].copy()  # alone, so that the run can go

    def finish(self) -> Iterator[Pixels]:
        """Yield what remains when the clip has ended, the last frame staying, but for what is held back."""
        length = ceil(self._received / self._step) if self._length is None else self._length
        missing = max(length, self._fade) - self._emitted
        self._emitted += missing
        if self._last is not None:
            yield from self.crossfade(repeat(self._last, missing))
        while len(self.held) > self._emitted - self._fade:
            yield self.held.popleft()

    def crossfade(self, frames: Iterator[Pixels]) -> Iterator[Pixels]:
        """Mix what comes first with the end of the clip before, and hold back what may be mixed with the next."""
        while len(self._before) > self._fade:
            yield self._before.popleft()
        for frame in frames:
            made = frame
            if self._before:
                weight = 1 - Fraction(len(self._before), self._fade + 1)
                made = mix_frames(self._before.popleft(), frame, weight)
            if self._max_held == 0:
                yield made
                continue
            self.held.append(made if made.base is None else made.copy())
            if len(self.held) > self._max_held:
                yield self.held.popleft()

    def _count_ready(self, stop: int) -> int:
        """Up to which frame of the video, exclusive, it can be made from the first `stop` frames of the clip."""
        reached = floor((stop - 1) / self._step) + 1 if self._fit.blend else ceil(stop / self._step)
        return reached if self._length is None else min(reached, self._length)

    def _list_sources(self, place: int) -> tuple[int, ...]:
        """The frame of the clip, or the two neighbours, that a frame of the video is made of."""
        at = place * self._step
        index = floor(at)
        return (index, index + 1) if self._fit.blend and at != index else (index,)


def _select_frames(run: Frames, indices: list[int], first: int) -> Frames:
    return Frames(run.pixels[[index - first for index in indices]])


def fit_frames(frames: Frames, width: int, height: int) -> Frames:
    """Return the frames as large as they go into a size (pixels) at their own aspect, in the middle of black."""
    scale = min(Fraction(width, frames.width), Fraction(height, frames.height))
    across, down = max(1, round(frames.width * scale)), max(1, round(frames.height * scale))
    sized = resize_frames(frames, across, down)
    if (across, down) == (width, height):
        return sized
    left, top = (width - across) // 2, (height - down) // 2
    pixels = np.zeros((frames.count, height, width, 3), np.uint8)
    pixels[:, top : top + down, left : left + across] = sized.pixels
    return Frames(pixels, frames.first, frames.rate)


def mix_frames(before: Pixels, after: Pixels, weight: Fraction) -> Pixels:
    """Return `before * (1 - weight) + after * weight`, halves rounded up. Arrays of one shape, uint8.

    It is exact, in integers, for weights whose denominator is at most FINEST; others are taken for the nearest one.
    """
    near = weight.limit_denominator(MAX_DENOMINATOR)
    share, whole = near.numerator, near.denominator
    wide = np.uint16 if 511 * whole < 1 << 16 else np.uint32
    out = np.empty(before.shape, np.uint8)
    left, right, made = before.reshape(-1), after.reshape(-1), out.reshape(-1)
    sums, terms = np.empty(CHUNK, wide), np.empty(CHUNK, wide)
    for at in range(0, made.size, CHUNK):
        here = slice(at, at + CHUNK)
        count = len(made[here])
        a, b = sums[:count], terms[:count]
        np.multiply(left[here], wide(2 * (whole - share)), out=a)
        np.multiply(right[here], wide(2 * share), out=b)
        a += b
        a += wide(whole)
        a //= wide(2 * whole)
        made[here] = a
    return out


def _drain(frames: deque[Pixels]) -> Iterator[Pixels]:
    while frames:
        yield frames.popleft()
