"""Videos as GIF, WebP and PNG files: frames, durations and colours as other programs read them."""

import io
import zipfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from composition.media.animation import TIMINGS, AnimationFormat, PaletteBuilder, Timing, choose_ticks
from composition.media.convert import convert_video
from composition.media.limits import MediaLimits
from services.errors import LimitExceeded
from services.frames import Pixels
from tests.composition.animations import read_animation, write_video
from tests.composition.cards import QUARTERS, draw_card, read_code, read_quarters

LIMITS = MediaLimits(min_side=1)
LIMITS_WIDE = MediaLimits(max_side=65535)
ANIMATIONS: tuple[AnimationFormat, ...] = ("gif", "webp")
UNEVEN = tuple(Fraction(ms, 1000) for ms in (0, 33, 67, 100, 500, 517, 2100, 2233))


async def convert(source: Path, form: AnimationFormat, most: int = 10**9) -> Path:
    target = source.with_suffix(f".{form}")
    await convert_video(source, form, target, max_pixels=most, limits=LIMITS)
    return target


def check_cards(frames: list[Pixels], size: tuple[int, int], most: float) -> None:
    assert [read_code(frame) for frame in frames] == list(range(len(frames)))
    for frame in frames:
        assert (frame.shape[1], frame.shape[0]) == size
        assert np.abs(read_quarters(frame) - QUARTERS).max() <= most


# Files.


@pytest.mark.parametrize("form", ANIMATIONS)
@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 16, 25, 30, 50, Fraction(7, 2)])
async def test_every_frame_is_shown_as_long_as_in_the_video(
    tmp_path: Path, form: AnimationFormat, rate: Fraction
) -> None:
    made = await convert(write_video(tmp_path / "a.mp4", count=31, rate=rate), form)
    frames, durations, loops = read_animation(made)
    check_cards(frames, (66, 50), 8)
    assert (len(frames), loops) == (31, 0)
    shown = np.cumsum(durations)
    assert np.abs(shown - np.arange(1, 32) * 1000 / float(rate)).max() <= 5.001, "errors do not add up"


@pytest.mark.parametrize("form", ANIMATIONS)
async def test_a_variable_rate_is_kept(tmp_path: Path, form: AnimationFormat) -> None:
    made = await convert(write_video(tmp_path / "a.mp4", rate=Fraction(7, 2), times=UNEVEN), form)
    frames, durations, _ = read_animation(made)
    check_cards(frames, (66, 50), 8)
    assert np.abs(np.cumsum(durations) - [float(time * 1000) for time in UNEVEN[1:]]).max() <= 5.001


@pytest.mark.parametrize(("form", "kept"), [("gif", 5), ("webp", 5)])
async def test_frames_that_viewers_would_slow_down_are_left_out(
    tmp_path: Path, form: AnimationFormat, kept: int
) -> None:
    frames, durations, _ = read_animation(await convert(write_video(tmp_path / "a.mp4", count=24, rate=240), form))
    assert len(frames) >= kept
    assert min(durations) >= (20 if form == "gif" else 11)
    assert sum(durations) == 100


async def test_one_frame(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", count=1, rate=4)
    for form in ANIMATIONS:
        frames, durations, _ = read_animation_or_picture(await convert(source, form))
        check_cards(frames, (66, 50), 8)
        assert durations in ([250], [])


def read_animation_or_picture(path: Path) -> tuple[list[Pixels], list[int], int | None]:
    with Image.open(path) as picture:
        if not getattr(picture, "is_animated", False):
            return [np.array(picture.convert("RGB"))], [], None
    return read_animation(path)


async def test_ffmpeg_reads_the_gif(tmp_path: Path) -> None:
    made = await convert(write_video(tmp_path / "a.mp4", count=9, rate=16), "gif")
    with av.open(str(made)) as container:
        stream = container.streams.video[0]
        shown = list(container.decode(stream))
        times = [float(frame.pts * stream.time_base) for frame in shown if frame.pts is not None and stream.time_base]
        cards = [frame.to_ndarray(format="rgb24") for frame in shown]
    assert np.abs(np.array(times) - np.arange(9) / 16).max() <= 0.00501
    check_cards([card.astype(np.uint8) for card in cards], (66, 50), 8)


async def test_frames_as_png_files(tmp_path: Path) -> None:
    made = await convert(write_video(tmp_path / "a.mp4", count=20), "png")
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{index:06d}.png" for index in range(20)]
        frames = [np.array(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
    check_cards(frames, (66, 50), 4)


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
async def test_the_same_video_gives_the_same_bytes(tmp_path: Path, form: AnimationFormat) -> None:
    source = write_video(tmp_path / "a.mp4")
    first = (await convert(source, form)).read_bytes()
    assert (await convert(source, form)).read_bytes() == first


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
async def test_a_video_beyond_the_limit(tmp_path: Path, form: AnimationFormat) -> None:
    source = write_video(tmp_path / "a.mp4")
    assert (await convert(source, form, most=66 * 50 * 7)).stat().st_size > 500
    with pytest.raises(LimitExceeded) as caught:
        await convert(source, form, most=66 * 50 * 7 - 1)
    assert caught.value.param == "format"
    assert caught.value.message == (
        f"format: 7 frames of 66x50 are 23100 pixels; at most 23099 are converted to {form} (max_conversion_pixels)"
    )


async def test_a_video_too_wide_for_webp(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", count=1, width=16384, height=16)
    with pytest.raises(LimitExceeded, match="webp has at most 16383 pixels of width and height, got 16384x16"):
        await convert_video(source, "webp", tmp_path / "a.webp", max_pixels=10**9, limits=LIMITS_WIDE)


# Times.


@given(
    steps=st.lists(st.fractions(min_value=Fraction(1, 1000), max_value=3, max_denominator=1001), min_size=1),
    start=st.fractions(min_value=0, max_value=5),
    timing=st.sampled_from([*TIMINGS.values(), Timing(Fraction(1, 10), 1)]),
)
def test_ticks(steps: list[Fraction], start: Fraction, timing: Timing) -> None:
    times = [start]
    for step in steps:
        times.append(times[-1] + step)
    ticks = choose_ticks(times, timing)
    assert ticks[0].frame == ticks[0].start == 0
    assert all(tick.duration >= timing.shortest for tick in ticks)
    assert all(a.start + a.duration == b.start for a, b in pairwise(ticks))
    for tick in ticks:
        assert abs(tick.start * timing.unit - (times[tick.frame] - start)) <= timing.unit / 2
    total = (ticks[-1].start + ticks[-1].duration) * timing.unit
    assert abs(total - max(times[-1] - start, timing.shortest * timing.unit)) <= timing.unit / 2
    if min(steps) >= (timing.shortest + 1) * timing.unit:
        assert len(ticks) == len(steps), "nothing is left out without need"


# Colours.


def test_the_palette_of_a_long_clip_is_computed_from_a_part_of_its_pixels() -> None:
    builder = PaletteBuilder(400, 300, frames=10_000)
    card = draw_card(5, 400, 300)
    for _ in range(3):
        builder.add(card)
    palette = builder.build().to_ndarray(format="rgb24").reshape(-1, 3).astype(int)
    for colour in QUARTERS:
        assert np.abs(palette - colour).sum(1).min() <= 3
