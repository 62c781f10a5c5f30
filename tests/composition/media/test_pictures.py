"""Pictures of phones and of the web: HEIC, AVIF, and animations with the time of each frame."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from composition.media.decode import Decoder, MediaFacts, probe_media
from composition.media.limits import MediaLimits
from services.errors import LimitExceeded, UndecodableMedia
from services.frames import Pixels
from tests.composition import heif
from tests.composition import sample_media as media
from tests.composition.albums import zipped
from tests.composition.cards import QUARTERS, draw_card, read_code, read_quarters
from tests.composition.media.test_decode import pulled
from tests.composition.media.test_times import list_joined_times, read_runs

DATA = Path(__file__).parents[2] / "data" / "media"


async def read_picture(path: Path, limits: MediaLimits | None = None) -> tuple[Pixels, MediaFacts]:
    async with Decoder.open(path, limits) as decoder:
        await decoder.verify()
        return (await decoder.read_last()).pixels[0], decoder.facts


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def measure_error(pixels: Pixels, truth: Pixels) -> float:
    """Return the mean difference of two pictures of one size in levels."""
    assert pixels.shape == truth.shape
    return float(np.abs(pixels.astype(int) - truth).mean())


CARD = draw_card(37, 152, 104)
HEICS = {
    "plain": (heif.write_heic(CARD), CARD),
    "420": (heif.write_heic(CARD, form="yuv420p"), CARD),
    "10 bits": (heif.write_heic(CARD, form="yuv420p10le"), CARD),
    "tiles": (heif.write_tiled(CARD, 64), CARD),
    "tiles turned": (heif.write_tiled(CARD, 64, heif.turn(1)), np.rot90(CARD, 1)),
    "turned right": (heif.write_heic(CARD, heif.turn(3)), np.rot90(CARD, 3)),
    "turned over": (heif.write_heic(CARD, heif.turn(2)), np.rot90(CARD, 2)),
    "mirrored": (heif.write_heic(CARD, heif.mirror()), CARD[:, ::-1]),
    "upside down": (heif.write_heic(CARD, heif.mirror(upside_down=True)), CARD[::-1]),
    "turned and mirrored": (heif.write_heic(CARD, heif.turn(1), heif.mirror()), np.rot90(CARD, 1)[:, ::-1]),
}


@pytest.mark.parametrize("name", HEICS)
async def test_a_heic_picture_is_shown_upright_and_whole(tmp_path: Path, name: str) -> None:
    data, truth = HEICS[name]
    pixels, facts = await read_picture(written(tmp_path / "a.heic", data))
    assert (facts.kind, facts.codec, facts.frames, facts.rate, facts.duration_s) == ("image", "hevc", 1, None, 0.0)
    assert (facts.width, facts.height, dict(facts.changes)) == (truth.shape[1], truth.shape[0], {})
    assert measure_error(pixels, np.ascontiguousarray(truth)) < 2


async def test_the_samples_of_phones_are_read() -> None:
    for name, index, size in (("s.heic", 5, (96, 72)), ("still.avif", 1, (64, 48))):
        pixels, facts = await read_picture(DATA / name)
        assert (facts.kind, facts.width, facts.height) == ("image", *size)
        assert read_code(pixels) == index
        assert measure_error(pixels, draw_card(index, *size)) < 4


async def test_of_several_pictures_the_primary_one_is_taken(tmp_path: Path) -> None:
    others = [heif.make_picture(draw_card(number, 96, 72)) for number in (11, 12, 13)]
    pixels, facts = await read_picture(written(tmp_path / "a.heic", heif.write_items(others, primary=2)))
    assert (read_code(pixels), facts.frames) == (12, 1)


async def test_a_transparent_heic_is_composited_on_the_background(tmp_path: Path) -> None:
    alpha = np.full_like(CARD, 255)
    alpha[:, 100:] = 0
    path = written(tmp_path / "a.heic", heif.write_alpha(CARD, alpha))
    pixels, facts = await read_picture(path)
    assert facts.changes == {"alpha": "on white"}
    assert measure_error(pixels, np.where(alpha == 255, CARD, 255).astype(np.uint8)) < 2
    async with Decoder.open(path) as decoder:
        colours, opacity = await decoder.read_picture_with_alpha()
    assert opacity is not None
    assert measure_error(opacity.pixels[0], alpha) < 1
    assert measure_error(colours.pixels[0], CARD) < 2


def read_p3() -> bytes:
    """Return the Display P3 profile of a sample."""
    with Image.open(DATA / "p3.png") as picture:
        return picture.info["icc_profile"]


@pytest.mark.parametrize("form", ["heic", "avif"])
async def test_the_profile_of_a_phone_s_picture_is_applied(tmp_path: Path, form: str) -> None:
    profile = read_p3()
    path, same = tmp_path / f"a.{form}", media.picture(tmp_path / "same.png", CARD, icc_profile=profile)
    if form == "heic":
        item = heif.make_picture(CARD)
        item.properties += [heif.make_colours(), heif.make_profile(profile)]
        path.write_bytes(heif.write_items([item]))
    else:
        media.picture(path, CARD, quality=98, subsampling="4:4:4", icc_profile=profile)
    pixels, facts = await read_picture(path)
    truth, others = await read_picture(same)
    assert facts.changes == others.changes
    assert str(facts.changes["colours"]).startswith("icc: ")
    assert measure_error(pixels, truth) < 2
    assert measure_error(pixels, CARD) > 5


async def test_a_heic_picture_in_display_p3_by_number_is_converted(tmp_path: Path) -> None:
    item = heif.make_picture(CARD, "yuv444p10le")
    item.properties.append(heif.make_colours(12, 13, 1))
    pixels, facts = await read_picture(written(tmp_path / "a.heic", heif.write_items([item])))
    assert facts.changes == {"colours": "display-p3"}
    red = pixels[12, 30]
    assert np.abs(red.astype(int) - (215, 0, 13)).max() < 12  # (200, 30, 30) of Display P3 in sRGB


def encode_pq(pixels: Pixels) -> Pixels:
    """Return sRGB colours as BT.2020 and PQ codes of 8 bits, with white at 203 cd/m² (BT.2408)."""
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    coded = pixels / 255
    light = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4) @ to_2020.T * 203 / 10_000
    power = light ** (1305 / 8192)
    return np.round(255 * ((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)).astype(np.uint8)


async def test_an_hdr_heic_picture_is_tone_mapped(tmp_path: Path) -> None:
    item = heif.make_picture(encode_pq(CARD), "yuv444p10le")
    item.properties.append(heif.make_colours(9, 16, 1))
    pixels, facts = await read_picture(written(tmp_path / "a.heic", heif.write_items([item])))
    assert facts.changes == {"tone_mapped": "pq", "colours": "bt2020"}
    assert measure_error(pixels, CARD) < 6
    assert np.abs(read_quarters(pixels) - QUARTERS).max() < 12


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
async def test_an_avif_picture_is_shown_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = media.picture(tmp_path / "a.avif", CARD, quality=95, subsampling="4:4:4", exif=exif)
    pixels, facts = await read_picture(path)
    turned = {2: CARD[:, ::-1], 3: np.rot90(CARD, 2), 6: np.rot90(CARD, -1), 8: np.rot90(CARD), 5: CARD.swapaxes(0, 1)}
    assert (facts.kind, facts.codec, facts.frames) == ("image", "av1", 1)
    assert measure_error(pixels, np.ascontiguousarray(turned[orientation])) < 2


async def test_a_transparent_avif_is_composited_on_the_background(tmp_path: Path) -> None:
    alpha = np.full((*CARD.shape[:2], 1), 255, np.uint8)
    alpha[40:] = 0
    path = media.picture(tmp_path / "a.avif", np.concatenate([CARD, alpha], 2), quality=95, subsampling="4:4:4")
    pixels, facts = await read_picture(path)
    assert facts.changes == {"alpha": "on white"}
    assert measure_error(pixels, np.where(alpha == 255, CARD, 255).astype(np.uint8)) < 2


async def test_phones_pictures_are_pictures_of_an_album(tmp_path: Path) -> None:
    cards = [draw_card(number, 64, 48) for number in range(3)]
    media.picture(tmp_path / "1.avif", cards[1])
    entries = [("0.heic", heif.write_heic(cards[0])), ("1.avif", (tmp_path / "1.avif").read_bytes())]
    path = zipped(tmp_path / "a.zip", [*entries, ("2.heic", heif.write_tiled(cards[2], 64))])
    async with Decoder.open(path) as decoder:
        assert (decoder.facts.kind, decoder.facts.frames, decoder.facts.codec) == ("pictures", 3, "hevc")
        assert [read_code(pixels) for pixels in await pulled(decoder)] == [0, 1, 2]


DURATIONS = [100, 500, 40, 1200, 70]


def animate(path: Path, cards: list[Pixels], **how: Any) -> Path:
    first, *rest = [Image.fromarray(card) for card in cards]
    first.save(path, save_all=True, append_images=rest, **how)
    return path


LOSSY = {"webp": {"lossless": True}, "avif": {"quality": 95, "subsampling": "4:4:4"}}
CODECS = {"png": "apng", "webp": "webp", "gif": "gif", "avif": "av1"}


@pytest.mark.parametrize("form", CODECS)
async def test_an_animation_is_a_video_with_its_times(tmp_path: Path, form: str) -> None:
    cards = [draw_card(number, 70, 50) for number in range(5)]
    path = animate(tmp_path / f"a.{form}", cards, duration=DURATIONS, loop=0, **LOSSY.get(form, {}))
    facts = await probe_media(path)
    assert (facts.kind, facts.codec, facts.frames, facts.is_variable) == ("video", CODECS[form], 5, True)
    assert (facts.width, facts.height, facts.duration_s) == (70, 50, pytest.approx(1.91))
    async with Decoder.open(path) as decoder:
        everything = await pulled(decoder)
        assert [read_code(pixels) for pixels in everything] == list(range(5))
        assert max(measure_error(pixels, card) for pixels, card in zip(everything, cards, strict=True)) < 2
        assert np.array_equal(await pulled(decoder, 3), everything[3:])
        assert np.array_equal(await pulled(decoder, 1, 2), everything[1:3])
        assert np.array_equal((await decoder.read_last()).pixels, everything[4:])
        assert [read_code(pixels) for pixels in (await decoder.sample(16)).pixels] == list(range(5))
    ends = [Fraction(sum(DURATIONS[:count]), 1000) for count in range(6)]
    assert list_joined_times(await read_runs(path)) == ends


@pytest.mark.parametrize("form", CODECS)
async def test_an_animation_of_equal_durations_has_a_rate(tmp_path: Path, form: str) -> None:
    cards = [draw_card(number, 70, 50) for number in range(6)]
    facts = await probe_media(animate(tmp_path / f"a.{form}", cards, duration=40, loop=2))
    assert (facts.frames, facts.rate, facts.is_variable) == (6, 25, False)
    assert facts.duration_s == pytest.approx(0.24)


@pytest.mark.parametrize("form", CODECS)
async def test_a_transparent_animation_is_composited(tmp_path: Path, form: str) -> None:
    alphas = [np.full((50, 70, 1), 255, np.uint8) for _ in range(4)]
    for number, alpha in enumerate(alphas):
        alpha[:, : 20 + 10 * number] = 0
    cards = [np.concatenate([draw_card(n, 70, 50), alpha], 2) for n, alpha in enumerate(alphas)]
    how: dict[str, Any] = {"disposal": 2} if form == "gif" else LOSSY.get(form, {})
    path = animate(tmp_path / f"a.{form}", cards, duration=100, **how)
    async with Decoder.open(path) as decoder:
        everything = await pulled(decoder)
        assert decoder.facts.changes["alpha"] == "on white"
    assert len(everything) == 4
    for pixels, card, alpha in zip(everything, cards, alphas, strict=True):
        assert measure_error(pixels, np.where(alpha == 255, card[..., :3], 255).astype(np.uint8)) < 2


async def test_the_parts_of_an_apng_are_placed_and_disposed_of(tmp_path: Path) -> None:
    def part(left: int, colour: tuple[int, int, int, int]) -> Pixels:
        canvas = np.zeros((40, 60, 4), np.uint8)
        canvas[10:30, left : left + 12] = colour
        return canvas

    red, green, blue = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)
    whole = np.full((40, 60, 4), 255, np.uint8)
    parts = [whole, part(2, red), part(20, green), part(40, blue)]
    # the red part stays, the green one is taken away again, the blue one is drawn beside the red one
    path = animate(tmp_path / "a.png", parts, duration=100, blend=[0, 1, 1, 1], disposal=[0, 0, 2, 0])
    async with Decoder.open(path) as decoder:
        shown = (await pulled(decoder))[:, 20, [8, 26, 46]].tolist()
    white, r, g, b = [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]
    assert shown == [[white, white, white], [r, white, white], [r, g, white], [r, white, b]]


async def test_the_picture_in_front_of_an_apng_is_no_frame(tmp_path: Path) -> None:
    cards = [draw_card(number, 70, 50) for number in range(4)]
    path = animate(tmp_path / "a.png", cards, duration=[100, 200, 300], default_image=True)
    async with Decoder.open(path) as decoder:
        assert (decoder.facts.frames, decoder.facts.duration_s) == (3, pytest.approx(0.6))
        assert [read_code(pixels) for pixels in await pulled(decoder)] == [1, 2, 3]


async def test_the_delays_of_an_apng_are_exact_and_those_near_zero_as_in_browsers(tmp_path: Path) -> None:
    cards = [draw_card(number, 70, 50) for number in range(4)]
    data = bytearray(animate(tmp_path / "a.png", cards, duration=100).read_bytes())
    at = 0
    for delay in ((1, 30), (1001, 30000), (0, 0), (1, 100)):
        at = data.index(b"fcTL", at + 1)
        struct.pack_into(">HH", data, at + 24, *delay)
    path = written(tmp_path / "b.png", bytes(data))  # FFmpeg passes over checksums
    first = Fraction(1, 30)
    second = first + Fraction(1001, 30000)
    ends = [0, first, second, second + Fraction(1, 10), second + Fraction(1, 5)]
    assert list_joined_times(await read_runs(path)) == ends


@pytest.mark.parametrize("form", ["gif", "png", "webp"])
async def test_an_animation_of_one_frame_is_a_picture(tmp_path: Path, form: str) -> None:
    pixels, facts = await read_picture(animate(tmp_path / f"a.{form}", [CARD], duration=500))
    assert (facts.kind, facts.frames, facts.rate, facts.duration_s) == ("image", 1, None, 0.0)
    assert read_code(pixels) == 37


@pytest.mark.parametrize("form", CODECS)
async def test_an_animation_is_no_picture_of_an_album(tmp_path: Path, form: str) -> None:
    data = animate(tmp_path / f"a.{form}", [CARD, draw_card(2, 152, 104)], duration=100).read_bytes()
    with pytest.raises(UndecodableMedia, match=r"'1\..*': the picture is animated; send each of its frames"):
        await probe_media(zipped(tmp_path / "a.zip", [(f"1.{form}", data)]))


@pytest.mark.parametrize("form", ["png", "webp", "gif"])
async def test_the_limits_of_an_animation_hold_before_it_is_decoded(tmp_path: Path, form: str) -> None:
    cards = [draw_card(number, 70, 50) for number in range(5)]
    path = animate(tmp_path / f"a.{form}", cards, duration=DURATIONS)
    with pytest.raises(LimitExceeded, match="max_frames"):
        await probe_media(path, MediaLimits(max_frames=4))
    with pytest.raises(LimitExceeded, match="max_duration_s"):
        await probe_media(path, MediaLimits(max_duration_s=1.8))
    with pytest.raises(LimitExceeded, match="70x50"):
        await probe_media(path, MediaLimits(max_pixels=3499))


async def test_a_phone_s_photograph_is_within_the_limits(tmp_path: Path) -> None:
    """12 megapixels, in either orientation."""
    for size in ((4032, 3024), (3024, 4032)):
        Image.new("RGB", size, (200, 120, 90)).save(tmp_path / "a.jpg")
        facts = await probe_media(tmp_path / "a.jpg")
        assert (facts.width, facts.height) == size
