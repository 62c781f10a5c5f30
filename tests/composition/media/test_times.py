"""When frames are shown: exact times where the rate is not constant, an exact rate where it is."""

import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composition.media.decode import Decoder, probe_media
from composition.media.decoding.timing import Timing, time_frames
from composition.media.limits import MediaLimits
from services.errors import LimitExceeded
from services.frames import Frames
from tests.composition import sample_media as media
from tests.composition.media.test_decode import X264, numbers
from tests.composition.sample_media import Coding

RECORDING = [0, 1, 2, 3, 63, 64, 65, 90, 91, 150, 151, 152, 153, 154, 200, 201, 202, 203, 240]
"""Times of a screen recording, in frames."""
NO_B = {**X264, "bf": "0"}
WAYS = {
    "plain.mp4": Coding(options=NO_B),
    "b-frames.mp4": Coding(options={**X264, "bf": "3", "g": "12", "x264-params": "b-adapt=0"}),
    "fragments.mp4": Coding(options=NO_B, container={"movflags": "frag_keyframe+empty_moov"}),
    "hevc.mov": Coding("libx265", options={"x265-params": "keyint=12:log-level=none"}),
    "plain.mkv": Coding(options={**X264, "bf": "2", "g": "12"}),
    "live.webm": Coding("libvpx", options={"deadline": "realtime", "b": "2M"}, container={"live": "1"}, matrix=5),
    "vp9.webm": Coding("libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    "plain.ts": Coding(options={**X264, "bf": "2", "g": "12"}),
    "plain.avi": Coding("mpeg4", options={"qscale": "2"}, matrix=5),
}


async def read_runs(path: Path, start: int = 0) -> list[Frames]:
    async with Decoder.open(path) as decoder:
        return [run async for run in decoder.stream_runs(start)]


def list_joined_times(runs: list[Frames]) -> list[Fraction]:
    """Return the times of all frames, and check that each run begins where the one before it ends."""
    times = [run.times for run in runs if run.times is not None]
    assert len(times) == len(runs)
    assert all(one[-1] == other[0] for one, other in pairwise(times))
    return [*(time for run in times for time in run[:-1]), times[-1][-1]]


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(24000, 1001)], ids=["30", "23.976"])
@pytest.mark.parametrize("name", WAYS)
async def test_every_frame_of_a_screen_recording_has_its_time(tmp_path: Path, name: str, rate: Fraction) -> None:
    pixels = [media.numbered(n) for n in range(len(RECORDING))]
    path = media.clip(tmp_path / name, pixels, rate, WAYS[name], RECORDING)
    truth = [time / rate for time in (*RECORDING, RECORDING[-1] + 1)]
    rounding = Fraction(1, 1000) if path.suffix in (".mkv", ".webm") else Fraction(1, 45_000)
    facts = await probe_media(path)
    runs = await read_runs(path)
    assert facts.is_variable
    assert facts.duration_s == pytest.approx(float(truth[-1]), abs=0.001)
    assert facts.rate is not None
    assert float(len(pixels) / facts.rate) == pytest.approx(facts.duration_s)
    assert [run.count for run in runs] == [16, 3]
    assert {run.rate for run in runs} == {facts.rate}
    assert numbers(np.concatenate([run.pixels for run in runs])) == list(range(len(pixels)))
    times = list_joined_times(runs)
    assert times[0] == 0
    assert max(abs(time - right) for time, right in zip(times, truth, strict=True)) <= rounding
    assert list_joined_times(await read_runs(path, 5)) == times[5:]


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "vp9.webm"])
async def test_the_last_frame_lasts_as_long_as_the_file_says(tmp_path: Path, name: str) -> None:
    path = media.clip(tmp_path / name, [media.numbered(n) for n in range(5)], 25, WAYS[name], [0, 1, 2, 3, 4], last=50)
    facts = await probe_media(path)
    assert (facts.is_variable, facts.duration_s) == (True, pytest.approx(54 / 25))
    assert list_joined_times(await read_runs(path))[-2:] == [Fraction(4, 25), Fraction(54, 25)]


async def test_a_late_start_is_no_time(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mkv", [media.numbered(n) for n in range(4)], 25, times=[100, 101, 102, 150])
    assert list_joined_times(await read_runs(path))[:4] == [0, Fraction(1, 25), Fraction(2, 25), 2]


async def test_one_frame_lasts_as_long_as_the_file_says(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", [media.numbered(0)], 25, WAYS["plain.mp4"], [0], last=100)
    facts = await probe_media(path)
    assert (facts.frames, facts.rate, facts.duration_s, facts.is_variable) == (1, Fraction(1, 4), 4.0, False)


@pytest.mark.parametrize("name", ["b-frames.mp4", "plain.mkv", "live.webm", "plain.ts", "plain.avi"])
@pytest.mark.parametrize(
    "rate",
    [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001), Fraction(25, 2), Fraction(60)],
    ids=str,
)
async def test_a_constant_rate_is_exact(tmp_path: Path, name: str, rate: Fraction) -> None:
    facts = await probe_media(media.count(tmp_path / name, 40, WAYS[name], rate))
    assert (facts.rate, facts.is_variable, facts.frames) == (rate, False, 40)
    assert facts.duration_s == pytest.approx(float(40 / rate))
    assert {run.times for run in await read_runs(tmp_path / name)} == {None}


@pytest.mark.parametrize("rate", [Fraction(1), Fraction(1, 2), Fraction(240)], ids=str)
async def test_slow_and_fast_clips_keep_their_rate(tmp_path: Path, rate: Fraction) -> None:
    facts = await probe_media(media.count(tmp_path / "a.mp4", 12, rate=rate))
    assert (facts.rate, facts.is_variable, facts.duration_s) == (rate, False, pytest.approx(float(12 / rate)))


@pytest.mark.parametrize(
    ("shown", "truth"),
    [
        ([100, 500, 1000, 400], [100, 500, 1000, 400]),
        ([50, 50, 50, 1500], [50, 50, 50, 1500]),
        ([0, 10, 20, 30], [100, 100, 20, 30]),  # browsers show a GIF's delays below 20 ms for 100 ms
    ],
)
async def test_a_gif_keeps_its_durations(tmp_path: Path, shown: list[int], truth: list[int]) -> None:
    first, *rest = [Image.fromarray(media.numbered(n, 50, 34)) for n in range(len(shown))]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=shown, loop=0)
    facts = await probe_media(tmp_path / "a.gif")
    assert (facts.frames, facts.is_variable, facts.duration_s) == (len(shown), True, pytest.approx(sum(truth) / 1000))
    ends = [Fraction(sum(truth[:n]), 1000) for n in range(len(truth) + 1)]
    assert list_joined_times(await read_runs(tmp_path / "a.gif")) == ends


async def test_a_gif_of_equal_durations_has_a_rate(tmp_path: Path) -> None:
    first, *rest = [Image.fromarray(media.numbered(n, 50, 34)) for n in range(5)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=80, loop=3)
    facts = await probe_media(tmp_path / "a.gif")
    assert (facts.frames, facts.is_variable, facts.rate) == (5, False, Fraction(25, 2))
    assert facts.duration_s == pytest.approx(0.4)


async def test_the_length_that_is_limited_is_the_true_one(tmp_path: Path) -> None:
    first, *rest = [Image.fromarray(media.numbered(n, 50, 34)) for n in range(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=[50, 50, 50, 5000])
    with pytest.raises(LimitExceeded, match=r"5\.2 s .*the limit is 5 s \(max_duration_s\)"):
        await probe_media(tmp_path / "a.gif", MediaLimits(max_duration_s=5))


def time_constant(rate: Fraction, base: Fraction, frames: int, declared: Fraction | None = None) -> Timing:
    pts = [round(n / rate / base) for n in range(frames)]
    return time_frames(pts, round(frames / rate / base), base, [declared], is_exact=True)


@pytest.mark.parametrize(
    "base", [Fraction(1, 1000), Fraction(1, 600), Fraction(1, 90_000), Fraction(1, 30_000)], ids=str
)
@pytest.mark.parametrize(
    "rate", ["24000/1001", "24", "25", "30000/1001", "30", "50", "60000/1001", "120", "15/2", "1/3"]
)
def test_rounded_times_are_those_of_a_usual_rate(rate: str, base: Fraction) -> None:
    timing = time_constant(Fraction(rate), base, 400)
    assert (timing.rate, timing.ticks) == (Fraction(rate), None)
    assert timing.list_ticks(0, 16) is None
    assert timing.measure_duration(400) == 400 / Fraction(rate)


def test_times_rounded_to_milliseconds_are_recognised_in_a_finer_base() -> None:
    pts = [round(Fraction(n * 1001, 30)) * 16 for n in range(300)]
    assert time_frames(pts, None, Fraction(1, 16_000), [], is_exact=False).rate == Fraction(30_000, 1001)


def test_a_phone_s_jitter_is_kept() -> None:
    draw = random.Random(0)
    pts = [n * 3000 + draw.randrange(-300, 300) for n in range(200)]
    timing = time_frames(pts, pts[-1] + 2987, Fraction(1, 90_000), [Fraction(30)], is_exact=True)
    assert timing.is_variable
    assert timing.list_ticks(0, 200) == [time - pts[0] for time in (*pts, pts[-1] + 2987)]
    assert timing.list_ticks(16, 3) == [time - pts[0] for time in pts[16:20]]


def test_one_late_frame_makes_a_rate_variable() -> None:
    pts = [*range(50), *range(51, 90)]
    assert time_frames(pts, 90, Fraction(1, 25), [Fraction(25)], is_exact=True).is_variable


def test_an_end_that_is_guessed_makes_no_rate_variable() -> None:
    exact = time_frames([0, 10, 20], 35, Fraction(1, 100), [], is_exact=True)
    guessed = time_frames([0, 10, 20], 34, Fraction(1, 100), [], is_exact=False)
    assert (exact.is_variable, exact.measure_duration(3)) == (True, Fraction(35, 100))
    assert (guessed.is_variable, guessed.rate) == (False, 10)


def test_frames_beyond_the_index_follow_at_the_average_rate() -> None:
    timing = time_frames([0, 10, 50], 60, Fraction(1, 100), [], is_exact=True)
    assert timing.list_ticks(1, 4) == [10, 50, 60, 80, 100]
    assert timing.list_ticks(4, 2) == [80, 100, 120]
