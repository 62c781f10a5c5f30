"""HDR and wide colours are shown as on an SDR screen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composition.media.decode import Decoder, MediaFacts
from composition.media.decoding.colour import SourceColour, convert_colours, find_matrix
from services.frames import Pixels
from tests.composition import sample_media
from tests.composition.cards import QUARTERS, draw_card, read_code, read_quarters
from tests.composition.filming import (
    BT709,
    BT2020,
    DISPLAY_P3,
    HLG,
    PQ,
    SRGB,
    Film,
    decode_srgb,
    encode_card,
    encode_srgb,
    film,
)
from tests.composition.media.test_alpha import png

FILES = Path(__file__).parents[2] / "data" / "media"
X264 = {"crf": "4", "preset": "ultrafast"}
VP9 = {"crf": "4", "deadline": "realtime", "cpu-used": "8", "b": "20M"}
AV1 = {"crf": "4", "preset": "8", "g": "1"}
FILMS = {
    "hlg-h264": Film(HLG, codec="libx264", options=X264),
    "pq-h264": Film(PQ, codec="libx264", options=X264, suffix=".mov"),
    "hlg-no-primaries": Film(HLG, codec="libx264", options=X264, names_primaries=False),
    "pq-no-primaries": Film(PQ, codec="ffv1", suffix=".mkv", names_primaries=False),
    "pq-av1": Film(PQ, codec="libsvtav1", options=AV1),
    "hlg-vp9": Film(HLG, codec="libvpx-vp9", pix_fmt="yuv444p", options=VP9, suffix=".webm"),
    "hlg-8-bit": Film(HLG, codec="libx264", pix_fmt="yuv420p", options=X264),
    "hlg-full": Film(HLG, codec="libx264", range=2, options=X264, suffix=".mkv"),
    "pq-full": Film(PQ, codec="ffv1", range=2, suffix=".mkv"),
    "pq-prores": Film(PQ, codec="prores_ks", pix_fmt="yuv422p10le", suffix=".mov"),
    "hlg-prores-444": Film(HLG, codec="prores_ks", pix_fmt="yuv444p10le", suffix=".mov"),
    "pq-12-bit": Film(PQ, codec="ffv1", pix_fmt="yuv444p12le", suffix=".mkv"),
    "pq-gbr": Film(PQ, codec="ffv1", pix_fmt="gbrp10le", matrix=0, range=2, suffix=".mkv"),
    "pq-in-709": Film(PQ, primaries=BT709, matrix=1, codec="libx264", options=X264),
    "pq-in-p3": Film(PQ, primaries=DISPLAY_P3, codec="libx264", options=X264),
    "hlg-709-matrix": Film(HLG, matrix=1, codec="libx264", options=X264),
    "2020-h264": Film(14, codec="libx264", options=X264),
    "2020-12-bit": Film(15, codec="ffv1", pix_fmt="yuv420p12le", suffix=".mkv"),
    "2020-8-bit": Film(1, codec="libx264", pix_fmt="yuv420p", options=X264),
    "2020-full": Film(14, codec="libx264", options=X264, range=2, suffix=".mkv"),
    "p3-8-bit": Film(1, primaries=DISPLAY_P3, matrix=1, codec="libx264", pix_fmt="yuv420p", options=X264),
    "p3-srgb": Film(SRGB, primaries=DISPLAY_P3, matrix=1, codec="libx264", options=X264),
    "p3-smpte170m": Film(6, primaries=DISPLAY_P3, matrix=6, codec="libx264", options=X264),
}


async def show(path: Path) -> tuple[MediaFacts, Pixels]:
    """Return the facts and the last frame."""
    async with Decoder.open(path) as decoder:
        return decoder.facts, (await decoder.read_last()).pixels[0]


def find_white(card: Pixels) -> float:
    """Return the smallest component in the middle of a white block: the second of card 42."""
    height, width = card.shape[:2]
    block = card[int(height * 0.45) : int(height * 0.55), int(width * 0.21) : int(width * 0.29)]
    return float(block.reshape(-1, 3).mean(0).min())


def list_changes(how: Film) -> dict[str, str]:
    """Return the facts that are right for a film."""
    tone_mapped = {HLG: {"tone_mapped": "hlg"}, PQ: {"tone_mapped": "pq"}}.get(how.transfer, {})
    colours = {BT2020: {"colours": "bt2020"}, DISPLAY_P3: {"colours": "display-p3"}}.get(how.primaries, {})
    return {**tone_mapped, **colours}


@pytest.mark.parametrize("size", [(96, 64), (322, 182)], ids=["small", "large"])
@pytest.mark.parametrize("name", FILMS)
async def test_hdr_and_wide_colours_are_those_of_sdr(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    how = FILMS[name]
    path = film(tmp_path / name, [draw_card(number, *size) for number in (5, 42)], how)
    facts, shown = await show(path)
    assert (facts.width, facts.height, facts.changes) == (*size, list_changes(how))
    assert read_code(shown) == 42
    assert np.abs(read_quarters(shown) - QUARTERS).max() <= 10
    assert find_white(shown) >= (240 if how.transfer in (HLG, PQ) else 252)


@pytest.mark.parametrize(
    ("name", "changes", "tolerance"),
    [
        ("hlg.mov", {"tone_mapped": "hlg", "colours": "bt2020"}, 5),
        ("pq.mp4", {"tone_mapped": "pq", "colours": "bt2020"}, 5),
        ("bt2020sdr_true.mp4", {"colours": "bt2020"}, 5),
    ],
)
async def test_clips_of_other_programs(name: str, changes: dict[str, str], tolerance: float) -> None:
    facts, shown = await show(FILES / name)
    assert facts.changes == changes
    assert (read_code(shown), facts.frames) == (12, 12)
    assert np.abs(read_quarters(shown) - QUARTERS).max() <= tolerance


async def test_a_matrix_of_bt2020_means_its_primaries(tmp_path: Path) -> None:
    how = Film(2, codec="libx264", pix_fmt="yuv444p", options=X264)
    path = film(tmp_path / "a", [draw_card(42)], replace(how, primaries=BT2020))
    facts, shown = await show(path)
    assert facts.changes == {"colours": "bt2020"}
    assert np.abs(read_quarters(shown) - QUARTERS).max() <= 8


@pytest.mark.parametrize("primaries", [5, 6, 7])
async def test_primaries_of_bt601_are_shown_unchanged(tmp_path: Path, primaries: int) -> None:
    card = draw_card(42)
    how = Film(1, primaries=BT709, matrix=6, codec="ffv1", pix_fmt="yuv444p", suffix=".mkv")
    _, plain = await show(film(tmp_path / "plain", [card], how))
    facts, shown = await show(film(tmp_path / "tagged", [card], replace(how, primaries=primaries)))
    assert facts.changes == {}
    assert np.array_equal(shown, plain)
    assert np.abs(shown.astype(int) - card).max() <= 5


async def test_every_frame_is_converted_alike(tmp_path: Path) -> None:
    path = film(tmp_path / "a", [draw_card(number) for number in range(20)], FILMS["hlg-h264"])
    async with Decoder.open(path) as decoder:
        in_order = np.concatenate([run.pixels async for run in decoder.stream_runs()])
        sampled = (await decoder.sample(16)).pixels
    assert [read_code(frame) for frame in in_order] == list(range(20))
    spread = np.stack([read_quarters(frame) for frame in in_order])
    assert np.abs(spread - QUARTERS).max() <= 5
    assert np.abs(sampled[0].astype(int) - in_order[0]).max() == 0


async def test_a_turned_hdr_clip_is_upright(tmp_path: Path) -> None:
    path = film(tmp_path / "a", [draw_card(42)], FILMS["hlg-h264"])
    turned = sample_media.turn(path, tmp_path / "turned.mp4", 90)
    facts, shown = await show(turned)
    assert (facts.width, facts.height, facts.changes["tone_mapped"]) == (48, 64, "hlg")
    assert np.abs(read_quarters(np.rot90(shown, -1)) - QUARTERS).max() <= 5


SDR_AND_PQ = [(transfer, primaries) for transfer in (PQ, SRGB) for primaries in (BT709, BT2020, DISPLAY_P3)]


@pytest.mark.parametrize(("transfer", "primaries"), [(HLG, BT2020), *SDR_AND_PQ])  # HLG's gamma depends on primaries
def test_the_conversion_is_the_inverse_of_the_formulas(transfer: int, primaries: int) -> None:
    card = np.random.default_rng(0).integers(0, 220, (32, 32, 3), dtype=np.uint8)
    code = encode_card(card, transfer, primaries)
    shown = convert_colours(code.reshape(-1, 3), SourceColour(primaries, transfer)).reshape(card.shape)
    assert np.abs(shown * 255 - card).max() <= 1


def test_highlights_are_compressed_in_order() -> None:
    nit = np.array([0, 1, 50, 100, 203, 400, 1000, 4000, 10_000])
    y = (nit / 10_000) ** 0.1593017578125
    code = ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    levels = convert_colours(np.repeat(code[:, None], 3, 1), SourceColour(BT2020, PQ)) * 255
    assert np.ptp(levels, 1).max() < 0.5
    assert (np.diff(levels[:, 0]) > 0).all()
    assert levels[2, 0] == pytest.approx(float(encode_srgb(np.array(50 / 203))) * 255, abs=0.5)
    assert 240 <= levels[4, 0] <= 250 < levels[-1, 0] <= 255


def test_white_stays_white_with_every_primaries() -> None:
    for primaries in (1, 9, 11, 12):
        assert np.abs(find_matrix(primaries).sum(1) - 1).max() < 1e-6


def test_the_formulas_of_the_tests_are_consistent() -> None:
    card = draw_card(42)
    assert np.abs(encode_srgb(decode_srgb(card)) * 255 - card).max() < 0.01


@pytest.mark.parametrize(("transfer", "primaries"), [(PQ, BT2020), (HLG, BT2020), (SRGB, DISPLAY_P3)])
async def test_a_png_that_names_its_colours(tmp_path: Path, transfer: int, primaries: int) -> None:
    """A PNG of 16 bits with the chunk cICP."""
    code = np.round(encode_card(draw_card(42), transfer, primaries) * 65535).astype(">u2")
    chunk = b"cICP", bytes([primaries, transfer, 0, 1])
    path = png(tmp_path / "a.png", code.view(np.uint8).reshape(48, -1), 2, 16, chunk)
    facts, shown = await show(path)
    assert facts.changes == list_changes(Film(transfer, primaries=primaries))
    assert np.abs(read_quarters(shown) - QUARTERS).max() <= 5
