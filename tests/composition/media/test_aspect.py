"""Pixels that are not square are made so by enlarging one side."""

import struct
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from composition.media.decode import Decoder, MediaFacts, probe_media
from composition.media.decoding.presentation import find_square_size
from composition.media.limits import MediaLimits
from services.errors import LimitExceeded
from services.frames import Pixels
from tests.composition import sample_media
from tests.composition.cards import QUARTERS, draw_card, read_code, read_quarters
from tests.composition.sample_media import PLAIN, Coding, picture

FILES = Path(__file__).parents[2] / "data" / "media"


def film(path: Path, frames: list[Pixels], ratio: Fraction, codec: str = "libx264", options: Any = None) -> Path:
    """Write a clip with a sample aspect ratio."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {"crf": "4", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = ratio
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def draw_disc(width: int, height: int, radius: float, ratio: Fraction) -> Pixels:
    """Return a picture that shows a disc when its pixels have this aspect ratio."""
    y, x = np.mgrid[:height, :width]
    across, down = (x + 0.5 - width / 2) * max(float(ratio), 1), (y + 0.5 - height / 2) / min(float(ratio), 1)
    inside = np.clip(radius + 0.5 - np.hypot(across, down), 0, 1)[..., None]
    return np.round(inside * 20 + (1 - inside) * 230).astype(np.uint8).repeat(3, 2)


def measure_box(shown: Pixels) -> tuple[int, int]:
    """Return width and height of what is dark."""
    dark = shown[..., 0] < 127
    return int(dark.any(0).sum()), int(dark.any(1).sum())


async def show(path: Path, limits: MediaLimits | None = None) -> tuple[MediaFacts, Pixels]:
    async with Decoder.open(path, limits) as decoder:
        await decoder.verify()
        return decoder.facts, (await decoder.read_last()).pixels[0]


@pytest.mark.parametrize(
    ("name", "ratio", "stored", "size"),
    [
        ("a.mp4", Fraction(2), (64, 48), (128, 48)),
        ("a.mp4", Fraction(16, 15), (90, 72), (96, 72)),
        ("a.mov", Fraction(4, 3), (1440, 1080), (1920, 1080)),
        ("a.mkv", Fraction(64, 45), (720, 576), (1024, 576)),
        ("a.ts", Fraction(40, 33), (352, 240), (427, 240)),
        ("a.mp4", Fraction(1, 2), (64, 48), (64, 96)),
        ("a.mkv", Fraction(10, 11), (72, 48), (72, 53)),
        ("a.mp4", Fraction(10), (64, 48), (640, 48)),
    ],
)
async def test_a_disc_stays_a_disc(
    tmp_path: Path, name: str, ratio: Fraction, stored: tuple[int, int], size: tuple[int, int]
) -> None:
    radius = min(size) * 0.4
    path = film(tmp_path / name, [draw_disc(*stored, radius, ratio)] * 3, ratio)
    facts, shown = await show(path)
    assert (facts.width, facts.height) == size == (shown.shape[1], shown.shape[0])
    assert facts.changes == {"pixel_aspect": f"{ratio.numerator}:{ratio.denominator}"}
    across, down = measure_box(shown)
    step = max(ratio, 1 / ratio)  # an edge lies somewhere in a stored pixel
    assert abs(across - down) <= 2 * step
    assert abs(across - 2 * radius) <= 2 * step


async def test_clips_of_other_programs() -> None:
    facts, shown = await show(FILES / "sar2.mp4")
    assert (facts.width, facts.height, facts.changes) == (128, 48, {"pixel_aspect": "2:1"})
    assert read_code(shown) == 12
    assert np.abs(read_quarters(shown) - QUARTERS).max() <= 4
    facts, shown = await show(FILES / "sar_circle.mp4")
    assert (facts.width, facts.height) == (128, 64)
    across, down = measure_box(shown)
    assert abs(across - down) <= 2


@pytest.mark.parametrize("ratio", [Fraction(1), Fraction(11), Fraction(1, 11), Fraction(1000, 1)])
async def test_square_and_absurd_ratios_change_nothing(tmp_path: Path, ratio: Fraction) -> None:
    card = draw_card(9)
    _, plain = await show(film(tmp_path / "plain.mp4", [card], Fraction(1)))
    facts, shown = await show(film(tmp_path / "a.mp4", [card], ratio))
    assert (facts.width, facts.height, facts.changes) == (64, 48, {})
    assert np.array_equal(shown, plain)


@pytest.mark.parametrize("degrees", [90, 180, -90])
async def test_the_ratio_applies_before_the_rotation(tmp_path: Path, degrees: int) -> None:
    path = film(tmp_path / "a.mp4", [draw_card(42)], Fraction(2))
    facts, shown = await show(sample_media.turn(path, tmp_path / "turned.mp4", degrees))
    assert (facts.width, facts.height) == ((128, 48) if degrees == 180 else (48, 128))
    assert facts.changes == {"pixel_aspect": "2:1"}
    upright = np.rot90(shown, -degrees // 90)
    assert (read_code(upright), upright.shape[:2]) == (42, (48, 128))
    assert np.abs(read_quarters(upright) - QUARTERS).max() <= 5


async def test_the_container_knows_better_than_the_codec(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [draw_card(9)], Fraction(2))
    data = path.read_bytes()
    place = data.index(b"pasp")
    assert struct.unpack_from(">II", data, place + 4) == (2, 1)
    path.write_bytes(data[: place + 4] + struct.pack(">II", 3, 2) + data[place + 12 :])
    facts = await probe_media(path)
    assert (facts.width, facts.height, facts.changes) == (96, 48, {"pixel_aspect": "3:2"})


async def test_limits_apply_to_the_displayed_size(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [draw_card(9)], Fraction(2))
    with pytest.raises(LimitExceeded, match=r"128x48.*max_side"):
        await probe_media(path, MediaLimits(max_side=127))
    with pytest.raises(LimitExceeded, match=r"128x48.*max_pixels"):
        await probe_media(path, MediaLimits(max_pixels=128 * 48 - 1))
    assert (await probe_media(path, MediaLimits(max_side=128, max_pixels=128 * 48))).width == 128


async def test_every_frame_is_enlarged_alike(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [draw_card(number) for number in range(20)], Fraction(4, 3))
    async with Decoder.open(path) as decoder:
        in_order = np.concatenate([run.pixels async for run in decoder.stream_runs()])
        sampled = (await decoder.sample(4)).pixels
    assert in_order.shape == (20, 48, 85, 3)
    assert [read_code(frame) for frame in in_order] == list(range(20))
    assert sampled.shape == (4, 48, 85, 3)


async def test_anamorphic_video_with_alpha(tmp_path: Path) -> None:
    rgba = np.concatenate([draw_card(9), np.full((48, 64, 1), 255, np.uint8)], 2)
    rgba[:24, 32:, 3] = 0
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("prores_ks", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva444p10le"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format="yuva444p10le")))
        container.mux(stream.encode())
    facts, shown = await show(path)
    assert facts.changes == {"pixel_aspect": "2:1", "alpha": "on white"}
    expected = np.array(QUARTERS)
    expected[1] = 255
    assert shown.shape == (48, 128, 3)
    assert np.abs(read_quarters(shown) - expected).max() <= 5


async def test_a_print_density_is_no_aspect_ratio(tmp_path: Path) -> None:
    card = draw_card(9)
    jpeg = picture(tmp_path / "a.jpg", card, dpi=(72, 144), quality=95)
    png = picture(tmp_path / "a.png", card)
    chunk = b"pHYs" + struct.pack(">IIB", 1000, 2000, 1)
    data = png.read_bytes()
    png.write_bytes(data[:33] + struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:])
    with Image.open(png) as opened:
        assert opened.info["dpi"][0] != opened.info["dpi"][1]
    for path in (jpeg, png):
        facts = await probe_media(path)
        assert (facts.width, facts.height, facts.changes) == (64, 48, {})


async def test_a_ratio_that_rounds_away_is_no_change(tmp_path: Path) -> None:
    facts = await probe_media(film(tmp_path / "a.mp4", [draw_card(9)], Fraction(1001, 1000)))
    assert (facts.width, facts.height, facts.changes) == (64, 48, {})


def test_sizes_are_rounded_to_the_nearest() -> None:
    assert find_square_size(704, 480, Fraction(10, 11)) == (704, 528)
    assert find_square_size(720, 576, Fraction(16, 15)) == (768, 576)
    assert find_square_size(3, 3, Fraction(3, 2)) == (5, 3)
    assert find_square_size(3, 3, Fraction(2, 3)) == (3, 5)


async def test_square_video_is_decoded_as_before(tmp_path: Path) -> None:
    coding: Coding = replace(PLAIN, pix_fmt="yuv444p")
    card = draw_card(9, 65, 49)
    facts, shown = await show(sample_media.clip(tmp_path / "a.mp4", [card], coding=coding))
    assert (facts.width, facts.height, facts.changes) == (65, 49, {})
    assert np.abs(read_quarters(shown) - QUARTERS).max() <= 4
