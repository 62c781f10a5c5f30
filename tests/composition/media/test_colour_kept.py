"""Files that were always decoded rightly still are: no fact, and the colours that were encoded."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from composition.media.decode import Decoder, MediaFacts
from services.frames import Pixels
from tests.composition.cards import QUARTERS, draw_card, read_code, read_quarters
from tests.composition.media.test_alpha import png
from tests.composition.sample_media import Coding, clip, picture

EXACT = Coding("ffv1", form="matroska")
X264 = Coding(options={"crf": "4", "preset": "ultrafast"})
FILMS = {
    "709": X264,
    "709-full": replace(X264, range=2),
    "601": replace(X264, matrix=5),
    "601-full": replace(X264, matrix=5, range=2),
    "untagged": replace(X264, matrix=5, tagged=False),
    "10-bit": replace(X264, pix_fmt="yuv420p10le"),
    "10-bit-422-full": replace(X264, pix_fmt="yuv422p10le", range=2),
    "444": replace(X264, pix_fmt="yuv444p"),
    "12-bit": replace(EXACT, pix_fmt="yuv444p12le"),
    "gbr": Coding("libx264rgb", "rgb24", X264.options, tagged=False),
    "gbr-10-bit": replace(EXACT, pix_fmt="gbrp10le", tagged=False),
    "mjpeg": Coding("mjpeg", "yuvj444p", {"qscale": "1"}, matrix=5, range=2),
    "vp8": Coding("libvpx", options={"crf": "4", "b": "4M"}, matrix=5),
    "mpeg4": Coding("mpeg4", options={"qscale": "1"}, matrix=5),
}
SUFFIXES = {"ffv1": ".mkv", "mjpeg": ".mov", "libvpx": ".webm"}


async def show(path: Path) -> tuple[MediaFacts, Pixels]:
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        return decoder.facts, (await decoder.read_last()).pixels[0]


@pytest.mark.parametrize("size", [(64, 48), (322, 182)], ids=["small", "large"])
@pytest.mark.parametrize("name", FILMS)
async def test_sdr_video(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    coding = FILMS[name]
    path = tmp_path / f"a{SUFFIXES.get(coding.codec, '.mp4')}"
    facts, shown = await show(clip(path, [draw_card(number, *size) for number in (5, 42)], coding=coding))
    assert (facts.changes, facts.width, facts.height) == ({}, *size)
    assert read_code(shown) == 42
    assert np.abs(read_quarters(shown) - QUARTERS).max() <= 5


async def test_odd_sizes(tmp_path: Path) -> None:
    facts, shown = await show(clip(tmp_path / "a.mp4", [draw_card(42, 65, 49)], coding=FILMS["444"]))
    assert (facts.width, facts.height, facts.changes, read_code(shown)) == (65, 49, {}, 42)
    assert np.abs(read_quarters(shown) - QUARTERS).max() <= 5


async def test_grey_video(tmp_path: Path) -> None:
    grey = np.repeat(np.resize(np.arange(256, dtype=np.uint8), (48, 64, 1)), 3, 2)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey[..., 0], "gray")))
        container.mux(stream.encode())
    facts, shown = await show(tmp_path / "a.mkv")
    assert facts.changes == {}
    assert np.abs(shown.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("name", ["deep.png", "palette.png", "bilevel.png", "progressive.jpg", "mpo.jpg", "grey.jpg"])
async def test_pictures(tmp_path: Path, name: str) -> None:
    card = draw_card(42, 96, 72)
    path, expected, tolerance = tmp_path / name, card.astype(int), 5
    match name:
        case "deep.png":
            png(path, (card.astype(">u2") * 257).astype(">u2").view(np.uint8).reshape(72, -1), 2, 16)
            tolerance = 1
        case "palette.png":
            Image.fromarray(card).quantize(16).save(path)
        case "bilevel.png":
            black = np.repeat((card[..., :1] > 127).astype(np.uint8) * 255, 3, 2)
            Image.fromarray(black).convert("1").save(path)
            expected, tolerance = black.astype(int), 0
        case "mpo.jpg":
            other = Image.fromarray(draw_card(9, 96, 72))
            Image.fromarray(card).save(path, "MPO", save_all=True, append_images=[other], quality=95, subsampling=0)
        case "grey.jpg":
            picture(path, card[..., 0], quality=95)
            expected = np.repeat(card[..., :1], 3, 2).astype(int)
        case _:
            picture(path, card, quality=95, subsampling=0, progressive=True)
    facts, shown = await show(path)
    assert (facts.kind, facts.changes) == ("image", {})
    assert np.abs(read_quarters(shown) - read_quarters(expected)).max() <= tolerance
