"""Pictures with an ICC profile are shown in sRGB."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from composition.media.decode import Decoder, MediaFacts
from composition.media.decoding.picture_tags import MAX_TAG_BYTES, read_tags
from services.frames import Pixels
from tests.composition.cards import draw_card, read_quarters
from tests.composition.profiles import (
    ADOBE,
    P3,
    build_cmyk,
    build_grey,
    build_rgb,
    build_srgb,
    show_ink,
    show_rgb,
)
from tests.composition.sample_media import picture, solid

FILES = Path(__file__).parents[2] / "data" / "media"
FORMATS: dict[str, dict[str, Any]] = {
    "a.png": {},
    "a.jpg": {"quality": 98, "subsampling": 0},
    "progressive.jpg": {"quality": 98, "subsampling": 0, "progressive": True},
    "lossy.webp": {"quality": 98},
    "exact.webp": {"lossless": True},
}
SKIN = (200, 120, 90)


async def show(path: Path) -> tuple[MediaFacts, Pixels]:
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        return decoder.facts, (await decoder.read_last()).pixels[0]


@pytest.mark.parametrize("name", ["p3.jpg", "p3.png"])
async def test_photographs_in_display_p3(name: str) -> None:
    facts, shown = await show(FILES / name)
    assert facts.changes == {"colours": "icc: Display P3 test"}
    truth = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (213, 115, 83)]
    assert np.abs(read_quarters(shown) - truth).max() <= 5


@pytest.mark.parametrize("size", [(64, 48), (321, 201)], ids=["small", "odd"])
@pytest.mark.parametrize(("colourants", "gamma"), [(P3, 2.2), (ADOBE, 2.199)], ids=["p3", "adobe"])
@pytest.mark.parametrize("name", FORMATS)
async def test_profiles_are_applied(
    tmp_path: Path, name: str, colourants: tuple[tuple[float, ...], ...], gamma: float, size: tuple[int, int]
) -> None:
    card = draw_card(9, *size)
    profile = build_rgb(colourants, gamma, "wide")
    facts, shown = await show(picture(tmp_path / name, card, icc_profile=profile, **FORMATS[name]))
    assert facts.changes == {"colours": "icc: wide"}
    assert np.abs(read_quarters(shown) - read_quarters(show_rgb(card, colourants, gamma))).max() <= 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "exact.webp"])
async def test_a_profile_beside_an_orientation(tmp_path: Path, name: str, orientation: int) -> None:
    card = draw_card(9, 64, 48)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    profile = build_rgb(P3, 2.2, "wide")
    path = picture(tmp_path / name, card, icc_profile=profile, exif=exif, **FORMATS[name])
    facts, shown = await show(path)
    turned = {1: card, 2: card[:, ::-1], 3: card[::-1, ::-1], 4: card[::-1], 5: card.transpose(1, 0, 2)}
    turned |= {6: np.rot90(card, -1), 7: np.rot90(card[::-1]), 8: np.rot90(card)}
    expected = show_rgb(turned[orientation], P3, 2.2)
    assert shown.shape == expected.shape == (facts.height, facts.width, 3)
    assert np.abs(read_quarters(shown) - read_quarters(expected)).max() <= 5


@pytest.mark.parametrize("name", FORMATS)
async def test_a_profile_of_srgb_changes_nothing(tmp_path: Path, name: str) -> None:
    card = draw_card(9, 64, 48)
    _, plain = await show(picture(tmp_path / f"plain-{name}", card, **FORMATS[name]))
    facts, shown = await show(picture(tmp_path / name, card, icc_profile=build_srgb(), **FORMATS[name]))
    assert facts.changes == {}
    assert np.array_equal(shown, plain)


def broken_profiles() -> dict[str, bytes]:
    whole = build_rgb(P3, 2.2, "wide")
    return {
        "noise": np.random.default_rng(0).bytes(3000),
        "cut": whole[:200],
        "short": whole[:20],
        "other-space": whole.replace(b"RGB ", b"HSV "),
        "tags-beyond": whole[:128] + struct.pack(">I", 4_000_000_000) + whole[132:],
        "zeros": bytes(500),
    }


@pytest.mark.parametrize("kind", broken_profiles())
@pytest.mark.parametrize("name", FORMATS)
async def test_a_broken_profile_is_ignored(tmp_path: Path, name: str, kind: str) -> None:
    card = draw_card(9, 64, 48)
    _, plain = await show(picture(tmp_path / f"plain-{name}", card, **FORMATS[name]))
    path = picture(tmp_path / name, card, icc_profile=broken_profiles()[kind], **FORMATS[name])
    facts, shown = await show(path)
    assert facts.changes == {}
    assert np.array_equal(shown, plain)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
async def test_a_grey_profile_is_for_grey_pictures_only(tmp_path: Path, name: str) -> None:
    grey = np.resize(np.arange(256, dtype=np.uint8), (64, 256))
    facts, shown = await show(picture(tmp_path / name, grey, icc_profile=build_grey(1.0), quality=98))
    expected = 255 * np.where(grey / 255 <= 0.0031308, 12.92 * grey / 255, 1.055 * (grey / 255) ** (1 / 2.4) - 0.055)
    assert facts.changes == {"colours": "icc: grey"}
    assert np.abs(shown[:, 16:] - expected[:, 16:, None]).max() <= 5
    card = draw_card(9, 64, 48)
    facts, _ = await show(picture(tmp_path / f"colour-{name}", card, icc_profile=build_grey(1.0), quality=98))
    assert facts.changes == {}


async def test_a_profile_keeps_alpha(tmp_path: Path) -> None:
    alpha = np.full((48, 64, 1), 255, np.uint8)
    alpha[:, 32:] = 0
    rgba = np.concatenate([solid(SKIN, 64, 48), alpha], 2)
    path = picture(tmp_path / "a.png", rgba, icc_profile=build_rgb(P3, 2.2, "wide"))
    facts, shown = await show(path)
    assert facts.changes == {"colours": "icc: wide", "alpha": "on white"}
    assert np.abs(shown[:, :32] - show_rgb(solid(SKIN, 32, 48), P3, 2.2)).max() <= 2
    assert (shown[:, 32:] == 255).all()


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (1, 0, 0, 0)], ids=["paper", "cyan"])
@pytest.mark.parametrize("orientation", [1, 6])
async def test_a_cmyk_photograph_with_a_profile(tmp_path: Path, ink: tuple[int, ...], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.full((48, 64, 4), np.array(ink, np.uint8) * 255, np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels, "CMYK").save(path, quality=98, icc_profile=build_cmyk(), exif=exif)
    facts, shown = await show(path)
    assert facts.changes == {"colours": "icc: made inks"}
    assert shown.shape == ((48, 64, 3) if orientation == 1 else (64, 48, 3))
    assert np.abs(shown[24, 24] - show_ink(ink)).max() <= 8


async def test_a_cmyk_photograph_without_a_profile_is_shown_as_before(tmp_path: Path) -> None:
    card = draw_card(9, 64, 48)
    path = tmp_path / "a.jpg"
    Image.fromarray(card).convert("CMYK").save(path, quality=95)
    facts, shown = await show(path)
    assert facts.changes == {}
    assert np.abs(read_quarters(shown) - read_quarters(card)).max() <= 5


def test_a_profile_in_many_segments_is_read(tmp_path: Path) -> None:
    profile = np.random.default_rng(0).bytes(200_000)
    path = picture(tmp_path / "a.jpg", draw_card(1), icc_profile=profile)
    assert read_tags(str(path), "jpeg_pipe").profile == profile
    data = path.read_bytes()
    assert read_tags(data, "jpeg_pipe").profile == profile
    first = data.index(b"ICC_PROFILE\0")
    assert read_tags(data[:first] + b"ICC_PROFILE\0\7" + data[first + 13 :], "jpeg_pipe").profile is None


def test_a_profile_that_is_a_bomb_is_not_read() -> None:
    packed = zlib.compress(bytes(MAX_TAG_BYTES + 1), 9)
    chunk = struct.pack(">I", len(packed) + 3) + b"iCCPa\0\0" + packed + bytes(4)
    assert read_tags(b"\x89PNG\r\n\x1a\n" + chunk, "png_pipe").profile is None


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_tags_of_a_file_that_is_cut_are_left_out(form: str) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 5
    Image.fromarray(draw_card(1)).save(file, form, exif=exif, icc_profile=build_srgb())
    data = file.getvalue()
    assert read_tags(data, f"{form}_pipe").is_mirrored
    for end in range(0, len(data), 7):
        assert read_tags(data[:end], f"{form}_pipe").orientation in range(1, 9)


async def test_a_picture_in_linear_light(tmp_path: Path) -> None:
    """A PNG with the chunk gAMA of 1."""
    light = solid((128, 64, 32), 64, 48)
    data = picture(tmp_path / "a.png", light).read_bytes()
    chunk = b"gAMA" + struct.pack(">I", 100_000)
    (tmp_path / "a.png").write_bytes(
        data[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    )
    facts, shown = await show(tmp_path / "a.png")
    assert facts.changes == {"colours": "linear"}
    assert np.abs(shown - 255 * (1.055 * (light / 255) ** (1 / 2.4) - 0.055)).max() <= 2
