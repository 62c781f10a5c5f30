"""Joining clips: every frame at its time, exact mixing, bounded memory, and independence of the lengths of runs."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition.media.decode import Decoder
from composition.media.stitch import Stitcher, count_clip_frames, count_joined_frames, fit_frames, mix_frames
from services.errors import ModelFailed
from services.frames import MAX_RUN, Fit, Frames, Pixels
from tests.composition import sample_media as media
from tests.memory import trace_memory

WIDTH, HEIGHT = 3, 2
PLAIN = Fit(WIDTH, HEIGHT, Fraction(25))
RATES = [
    Fraction(24000, 1001),
    Fraction(30000, 1001),
    Fraction(25, 2),
    Fraction(1, 3),
    *map(Fraction, (7, 24, 25, 240)),
]


def noise(count: int, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@dataclass
class Source:
    """A clip as decoded from a file, which counts the frames that were pulled."""

    pixels: Pixels
    rate: Fraction = Fraction(25)
    cuts: Sequence[int] = ()
    """Where runs end, in addition to every sixteenth frame."""
    times: tuple[Fraction, ...] | None = None
    """When each frame appears, and when the last one disappears; None at a constant rate."""
    said: int | None = None
    """Declared number of frames, if it is wrong."""
    pulled: int = 0
    closed: bool = False

    @property
    def frames(self) -> int:
        return len(self.pixels) if self.said is None else self.said

    async def runs(self) -> AsyncGenerator[Frames]:
        ends = sorted({*range(0, len(self.pixels), MAX_RUN), *self.cuts, len(self.pixels)})
        try:
            for first, stop in pairwise(ends):
                run = self.pixels[first:stop]
                run.flags.writeable = False
                self.pulled = stop
                yield Frames(run, first, self.rate, self.times and self.times[first : stop + 1])
        finally:
            self.closed = True


@dataclass
class Video:
    """The video that joins the clips."""

    frames: list[Pixels] = field(default_factory=list[Pixels])

    def take(self, run: Frames, fit: Fit) -> None:
        assert (run.first, run.rate, run.width, run.height) == (len(self.frames), fit.rate, fit.width, fit.height)
        self.frames.extend(run.pixels)


async def stitched(*clips: tuple[Source, Fit]) -> Pixels:
    stitch, video = Stitcher(), Video()
    for source, fit in clips:
        async for run in stitch.add_clip(source.runs(), source.frames, fit):
            video.take(run, fit)
        assert source.closed
    for run in stitch.flush():
        video.take(run, clips[-1][1])
    return np.stack(video.frames)


def mix(before: Pixels, after: Pixels, weight: Fraction) -> Pixels:
    """Mix with 64-bit integers, halves rounded up."""
    share, whole = weight.numerator, weight.denominator
    doubled = 2 * (before.astype(np.int64) * (whole - share) + after.astype(np.int64) * share) + whole
    return (doubled // (2 * whole)).astype(np.uint8)


def moments(source: Source, fit: Fit) -> list[Pixels]:
    """Compute the frames of one clip by the definition, each frame of the video separately."""
    count = len(source.pixels)
    seconds = count / source.rate if fit.seconds is None else fit.seconds
    out: list[Pixels] = []
    for place in range(ceil(seconds * fit.rate)):
        at = place / fit.rate * count / seconds
        before, after = floor(at), min(floor(at) + 1, count - 1)
        weight = at % 1 if fit.blend else Fraction(0)
        out.append(mix(source.pixels[before], source.pixels[after], weight))
    return out


def expected(clips: Sequence[tuple[Source, Fit]]) -> Pixels:
    video: list[Pixels] = []
    before, free = Fit(1, 1, Fraction(1)), 0
    for source, fit in clips:
        part = moments(source, fit)
        fade = min(fit.crossfade, before.crossfade, free, len(part) // 2)
        tail = video[len(video) - fade :]
        head = [mix(tail[k], part[k], Fraction(k + 1, fade + 1)) for k in range(fade)]
        video = [*video[: len(video) - fade], *head, *part[fade:]]
        before, free = fit, len(part) // 2
    return np.stack(video)


rates = st.one_of(st.sampled_from(RATES), st.fractions(Fraction(1, 2), 100, max_denominator=1001))
fits = st.builds(
    lambda rate, seconds, blend, crossfade: Fit(WIDTH, HEIGHT, rate, seconds, blend, crossfade),
    st.just(Fraction(1)),
    st.none() | st.fractions(Fraction(1, 50), 4, max_denominator=60),
    st.booleans(),
    st.integers(0, 20),
)
sources = st.builds(
    lambda count, seed, rate, cuts: Source(noise(count, seed), rate, [cut for cut in cuts if cut < count]),
    st.integers(1, 40),
    st.integers(0, 3),
    rates,
    st.sets(st.integers(1, 39)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(sources, fits), min_size=1, max_size=4), rates)
def test_every_frame_shows_its_moment_and_every_fade_is_exact_in_runs_of_any_length(clips, rate) -> None:
    clips = [(source, replace(fit, rate=rate)) for source, fit in clips if len(source.pixels) / source.rate < 20]
    if not clips:
        return
    video = asyncio.run(stitched(*clips))
    assert np.array_equal(video, expected(clips))
    assert len(video) == count_joined_frames([(source.frames, source.rate, fit) for source, fit in clips])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.sets(st.integers(1, 39)), fits, rates)
def test_a_clip_of_a_variable_rate_shows_each_frame_when_it_is_due(durations, cuts, fit, rate) -> None:
    times = tuple(accumulate((Fraction(each, 100) for each in durations), initial=Fraction(0)))
    count, length = len(durations), times[-1]
    source = Source(noise(count), count / length, [cut for cut in cuts if cut < count], times)
    fit = replace(fit, rate=rate, crossfade=0)
    seconds = length if fit.seconds is None else fit.seconds
    if seconds * rate > 3000:
        return
    video = asyncio.run(stitched((source, fit)))
    assert len(video) == ceil(seconds * rate)
    for place, shown in enumerate(video):
        at = place / rate * length / seconds
        index = next(i for i in range(count) if at < times[i + 1])
        weight = (at - times[index]) / (times[index + 1] - times[index]) if fit.blend else Fraction(0)
        assert np.array_equal(shown, mix(source.pixels[index], source.pixels[min(index + 1, count - 1)], weight))


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("rate", RATES, ids=str)
async def test_at_the_videos_rate_a_clip_is_itself(rate: Fraction, blend: bool) -> None:
    pixels = noise(100)
    fit = replace(PLAIN, rate=rate, blend=blend)
    assert np.array_equal(await stitched((Source(pixels, rate), fit)), pixels)
    spread = replace(fit, seconds=100 / rate)
    assert np.array_equal(await stitched((Source(pixels, Fraction(1000)), spread)), pixels)


@pytest.mark.parametrize(
    "weight", [Fraction(1, 2), Fraction(1, 3), Fraction(5, 6), Fraction(127, 128), Fraction(1, 129)]
)
def test_a_mix_is_rounded_as_numbers_are(weight: Fraction) -> None:
    every = np.arange(256, dtype=np.uint8)
    before, after = (np.ascontiguousarray(side) for side in np.broadcast_arrays(every[:, None], every))
    made = mix_frames(before, after, weight)
    assert np.array_equal(made, mix(before, after, weight))
    in_doubles = before * (1 - float(weight)) + after * float(weight)
    assert np.abs(made - in_doubles).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "weight", [Fraction(1, 1 << 22), Fraction((1 << 22) - 1, 1 << 22), Fraction(10**9 + 7, 10**10 + 19)]
)
def test_a_mix_by_a_fine_weight_does_not_overflow(weight: Fraction) -> None:
    before, after = noise(1, 1, 200, 100)[0], noise(1, 2, 200, 100)[0]
    before[0], after[0] = 255, 255
    made = mix_frames(before, after, weight)
    assert np.array_equal(made[0], before[0])
    assert np.abs(made - (before * (1 - float(weight)) + after * float(weight))).max() <= 0.5 + 1e-4


async def test_a_fade_is_at_most_half_of_either_clip_and_shortens_the_video() -> None:
    fit = replace(PLAIN, crossfade=10)
    black, white = (np.full((count, HEIGHT, WIDTH, 3), grey, np.uint8) for count, grey in ((7, 0), (9, 255)))
    video = (await stitched((Source(black), fit), (Source(white), fit)))[:, 0, 0, 0]
    assert [*video] == [0] * 4 + [64, 128, 191] + [255] * 6
    middle = (await stitched((Source(white), fit), (Source(black[:3]), fit), (Source(white), fit)))[:, 0, 0, 0]
    assert [*middle] == [255] * 8 + [128, 0, 128] + [255] * 8


async def test_a_clip_behind_the_rest_begins_anew() -> None:
    fit = replace(PLAIN, crossfade=4)
    stitch, video = Stitcher(), Video()
    for seed in (1, 2):
        async for run in stitch.add_clip(Source(noise(20, seed)).runs(), 20, fit):
            video.take(run, fit)
        for run in stitch.flush():
            video.take(run, fit)
    assert np.array_equal(np.stack(video.frames), np.concatenate([noise(20, 1), noise(20, 2)]))
    assert list(stitch.flush()) == []


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (3, 200), (97, 31), (64, 48), (32, 24)])
def test_a_clip_of_another_size_keeps_its_aspect_in_black(size: tuple[int, int]) -> None:
    width, height = 64, 48
    white = Frames(np.full((2, size[1], size[0], 3), 255, np.uint8), 5, Fraction(7))
    out = fit_frames(white, width, height)
    assert (out.count, out.height, out.width, out.first, out.rate) == (2, height, width, 5, Fraction(7))
    scale = min(width / size[0], height / size[1])
    lit = out.pixels[0, :, :, 0] > 0
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    for places, side, whole in ((columns, size[0], width), (rows, size[1], height)):
        assert len(places) == pytest.approx(max(1, side * scale), abs=0.51)
        assert abs(places[0] - (whole - 1 - places[-1])) <= 1
    assert lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_a_clip_of_the_videos_size_is_not_touched() -> None:
    frames = Frames(noise(3, width=64, height=48))
    assert fit_frames(frames, 64, 48) is frames


async def test_missing_frames_are_held_and_those_beyond_are_cut_only_where_the_time_is_given() -> None:
    pixels = noise(10)
    timed = replace(PLAIN, seconds=Fraction(8, 25))
    assert np.array_equal(await stitched((Source(pixels, said=8), timed)), pixels[:8])
    assert np.array_equal(await stitched((Source(pixels[:6], said=8), timed)), pixels[[0, 1, 2, 3, 4, 5, 5, 5]])
    assert np.array_equal(await stitched((Source(pixels, said=8), PLAIN)), pixels)
    assert np.array_equal(await stitched((Source(pixels, said=100), PLAIN)), pixels)


@pytest.mark.parametrize("there", [1, 3, 5, 7])
async def test_a_clip_that_is_shorter_than_it_said_still_ends_its_fade(there: int) -> None:
    """The last frame is repeated, and no frame is mixed twice."""
    fit = replace(PLAIN, crossfade=5)
    grey = np.full((20, HEIGHT, WIDTH, 3), 60, np.uint8)
    short = grey[:there] + np.uint8(60)
    video = await stitched((Source(grey), fit), (Source(short, said=20), fit), (Source(grey), fit))
    behind = [100, 80, *[60] * 18] if there == 7 else [60] * 20
    assert [*video[:, 0, 0, 0]] == [60] * 15 + [70, 80, 90, 100, 110] + behind


async def test_nothing_is_pulled_before_what_came_of_it_is_taken() -> None:
    source = Source(noise(200))
    fit = replace(PLAIN, crossfade=10)
    async with aclosing(Stitcher().add_clip(source.runs(), 200, fit)) as runs:
        async for run in runs:
            if run.stop + 10 < 200:
                assert source.pulled - run.stop <= 10 + MAX_RUN
    slow = replace(PLAIN, seconds=Fraction(1000))
    source = Source(noise(32))
    async with aclosing(Stitcher().add_clip(source.runs(), 32, slow)) as runs:
        async for run in runs:
            assert source.pulled == (16 if run.stop <= 25 * 1000 // 2 else 32)


async def test_no_more_is_pulled_than_is_shown_and_the_source_is_closed() -> None:
    source = Source(noise(200), said=40)
    await stitched((source, replace(PLAIN, seconds=Fraction(1))))
    assert source.pulled == 48
    left = Source(noise(200))
    async with aclosing(Stitcher().add_clip(left.runs(), 200, PLAIN)) as runs:
        await anext(runs)
    assert left.closed
    assert left.pulled == 16


@pytest.mark.parametrize("blend", [False, True])
async def test_memory_holds_two_runs_and_one_fade(blend: bool) -> None:
    width, height, count, crossfade = 320, 180, 150, 20
    fit = Fit(width, height, Fraction(30), None, blend, crossfade)

    async def runs() -> AsyncGenerator[Frames]:
        for first in range(0, count, MAX_RUN):
            yield Frames(np.full((min(MAX_RUN, count - first), height, width, 3), first, np.uint8), first, Fraction(24))

    stitch, made = Stitcher(), 0
    with trace_memory() as memory:
        for _ in range(3):
            async with aclosing(stitch.add_clip(runs(), count, fit)) as ready:
                async for run in ready:
                    made += run.count
                    del run
    assert made == count_joined_frames([(count, Fraction(24), fit)] * 3) - crossfade
    at_work = 5  # the last frame of the previous run, the frame being mixed, and other objects
    assert memory.peak <= (crossfade + 2 * MAX_RUN + at_work) * width * height * 3


async def test_runs_of_large_frames_are_short() -> None:
    fit = Fit(4096, 2304, Fraction(25))
    pixels = np.zeros((3, 2304, 4096, 3), np.uint8)
    assert [run.count async for run in Stitcher().add_clip(Source(pixels).runs(), 3, fit)] == [2, 1]


async def test_a_clip_without_frames_is_a_failure() -> None:
    async def nothing() -> AsyncGenerator[Frames]:
        for run in ():
            yield run

    with pytest.raises(ModelFailed, match="no frames"):
        await anext(Stitcher().add_clip(nothing(), 1, PLAIN))


@pytest.mark.parametrize("other", [Fit(4, 2, Fraction(25)), Fit(3, 2, Fraction(24))])
async def test_a_clip_that_is_to_fit_another_video_is_refused(other: Fit) -> None:
    with pytest.raises(ValueError, match="width, height and rate must be"):
        await stitched((Source(noise(2)), PLAIN), (Source(noise(2)), other))


@pytest.mark.parametrize(
    ("frames", "fit"),
    [(0, PLAIN), (2, replace(PLAIN, seconds=Fraction(0))), (2, replace(PLAIN, crossfade=-1))],
)
async def test_numbers_that_cannot_be_are_refused(frames: int, fit: Fit) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        await anext(Stitcher().add_clip(Source(noise(2)).runs(), frames, fit))


async def test_files_are_joined_as_they_are_decoded(tmp_path: Path) -> None:
    """Two clips: one at half the video's rate and size, one at the video's."""
    first = media.clip(tmp_path / "a.mp4", [media.numbered(n) for n in range(20)], Fraction(25, 2))
    second = media.clip(tmp_path / "b.mp4", [media.numbered(n, 128, 96) for n in range(100, 130)], 25)
    fit = Fit(128, 96, Fraction(25), crossfade=5)
    stitch, video, counts = Stitcher(), Video(), []
    for path in (first, second):
        async with Decoder.open(path) as decoder:
            assert decoder.facts.rate is not None
            counts.append(count_clip_frames(decoder.facts.frames, decoder.facts.rate, fit))
            async for run in stitch.add_clip(decoder.stream_runs(), decoder.facts.frames, fit):
                video.take(run, fit)
    for run in stitch.flush():
        video.take(run, fit)
    assert counts == [40, 30]
    numbers = [media.number_of(frame) for frame in video.frames]
    assert numbers[:35] == [n // 2 for n in range(35)]
    assert numbers[40:] == list(range(105, 130))
