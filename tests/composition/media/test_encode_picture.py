"""Pictures as PNG, JPEG and WebP: their colours as other programs read them, and their transparency."""

import io
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from PIL import Image

from composition.media.encode_picture import blend_on_white, convert_picture, encode_picture
from composition.media.formats import PictureFormat
from services.frames import Pixels
from tests.composition.serving import noise

FORMATS: tuple[PictureFormat, ...] = ("png", "jpeg", "webp")
COLOURS = [(200, 30, 30), (30, 180, 40), (40, 50, 210), (220, 210, 40), (0, 0, 0), (255, 255, 255), (128, 128, 128)]


def draw_bars(width: int = 112, height: int = 33) -> Pixels:
    """Upright bars of saturated colours, whose edges lie on odd and even columns."""
    picture = np.zeros((height, width, 3), np.uint8)
    for index, colour in enumerate(COLOURS):
        picture[:, index * width // len(COLOURS) :] = colour
    return picture


def draw_ramp() -> Pixels:
    """Opacity that grows from left to right, (33, 112) uint8."""
    return np.tile(np.linspace(0, 255, 112).round().astype(np.uint8), (33, 1))


def read_with_pillow(data: bytes) -> tuple[str | None, Pixels]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.format, np.array(picture)


def read_with_ffmpeg(data: bytes) -> Pixels:
    with av.open(io.BytesIO(data), "r") as container:
        (frame,) = list(container.decode(video=0))
        return cast("Pixels", frame.to_ndarray(format="rgb24", src_colorspace="itu601"))


@pytest.mark.parametrize("read", [lambda data: read_with_pillow(data)[1], read_with_ffmpeg], ids=["Pillow", "FFmpeg"])
@pytest.mark.parametrize(("form", "quality", "most"), [("png", 100, 0), ("jpeg", 100, 2), ("webp", 100, 0)])
def test_colours_are_the_same_to_other_programs(read, form: PictureFormat, quality: int, most: int) -> None:
    shown = read(encode_picture(draw_bars(), form, quality))
    assert np.abs(shown.astype(int) - draw_bars()).max() <= most


@pytest.mark.parametrize(("form", "most"), [("jpeg", 4), ("webp", 6)])
def test_flat_colours_keep_at_lower_quality(form: PictureFormat, most: int) -> None:
    _, shown = read_with_pillow(encode_picture(draw_bars(), form, 90))
    centres = [int((index + 0.5) * 112 / len(COLOURS)) for index in range(len(COLOURS))]
    assert np.abs(shown[8:24, centres].astype(int) - COLOURS).max() <= most


def test_chroma_of_jpeg_has_the_full_resolution() -> None:
    with av.open(io.BytesIO(encode_picture(draw_bars(), "jpeg", 80)), "r") as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuvj444p"


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_lower_quality_gives_smaller_files(form: PictureFormat) -> None:
    sizes = [len(encode_picture(noise(3, 64, 64), form, quality)) for quality in (0, 30, 60, 90, 100)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 5


@pytest.mark.parametrize("form", ["png", "webp"])
def test_transparency_is_kept_exactly(form: PictureFormat) -> None:
    shown_format, shown = read_with_pillow(encode_picture(draw_bars(), form, alpha=draw_ramp()))
    assert shown_format == form.upper()
    assert np.array_equal(shown[..., 3], draw_ramp())
    assert np.array_equal(shown[..., :3], draw_bars()), "also where the picture is transparent"


def test_jpeg_of_a_transparent_picture_is_on_white() -> None:
    _, shown = read_with_pillow(encode_picture(draw_bars(), "jpeg", alpha=draw_ramp()))
    truth = draw_bars() * (draw_ramp()[..., None] / 255) + 255 - draw_ramp()[..., None]
    assert np.abs(shown - truth).max() <= 3
    assert np.abs(blend_on_white(draw_bars(), draw_ramp()) - truth).max() <= 0.51


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("alpha", [None, draw_ramp()], ids=["opaque", "transparent"])
def test_a_stored_picture_is_converted(tmp_path: Path, form: PictureFormat, alpha: Pixels | None) -> None:
    stored = tmp_path / "stored.png"
    stored.write_bytes(encode_picture(draw_bars(), "png", alpha=alpha))
    assert convert_picture(stored, form) == encode_picture(draw_bars(), form, alpha=alpha)
