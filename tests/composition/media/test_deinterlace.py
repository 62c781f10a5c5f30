"""Interlaced and telecined material: no combs, the right pictures at the right times, the same from every position."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composition.media.decode import Decoder, probe_media
from composition.media.decoding.headers import Limits
from composition.media.decoding.media_file import MediaFile
from composition.media.limits import MediaLimits
from services.frames import Pixels
from tests.composition import scanned_media as media
from tests.composition.cards import read_code
from tests.composition.field_coding import record_fields
from tests.composition.media.test_decode import workers
from tests.composition.sample_media import spoil
from tests.composition.scanned_media import BFF, FIELDS, FILM, NTSC, TFF, X264, Recording

SAMPLES = Path(__file__).parents[2] / "data" / "media"
SMOOTH = 6
"""Levels by which lines may differ more than in the film."""
PRORES = {"codec": "prores_ks", "options": {"flags": "+ildct"}, "pix_fmt": "yuv422p10le"}
MPEG2 = {"codec": "mpeg2video", "options": {**FIELDS, "qscale": "2", "bf": "2", "g": "6"}}
RECORDINGS = [
    Recording("tff.mp4"),
    Recording("bff.mp4", "bff", options=BFF),
    Recording("b-frames.mkv", options={**TFF, "bf": "2", "preset": "fast", "x264-params": "tff=1:keyint=5"}),
    Recording("tff.ts", options={**TFF, "g": "4"}),
    Recording("h264.avi", "bff", options=BFF),
    Recording("mpeg2.ts", **MPEG2),
    Recording("mpeg2.mkv", "bff", **MPEG2),
    Recording("prores.mov", **PRORES),
    Recording("dv.avi", "bff", codec="dvvideo", options={}, size=(720, 576)),
    Recording("444.mkv", codec="ffv1", options={}, pix_fmt="yuv444p", size=(65, 49)),
    Recording("odd-fields.mkv", codec="ffv1", options={}, size=(64, 50)),
    Recording("small.mp4", size=(64, 48)),
    Recording("pal.mp4", size=(720, 576)),
    Recording("1080i.mp4", size=(1920, 1080)),
    Recording("no-flag.mp4", flag="prog", options=X264),
    Recording("no-flag-bff.mkv", "bff", flag="prog", options=X264),
    Recording("mpeg4.mkv", flag="prog", codec="mpeg4", options={"qscale": "2"}),
    Recording("wrong-flag.mp4", "bff", flag="tff"),
]


async def read_all(decoder: Decoder, start: int = 0, count: int | None = None) -> Pixels:
    return np.concatenate([run.pixels async for run in decoder.stream_runs(start, count)])


def read_unfiltered(path: Path) -> Pixels:
    """Return the frames of a file as they are stored."""
    file = MediaFile(str(path), Limits(**MediaLimits().model_dump()))
    frames = [file.read_frame(position) for position in range(file.frames)]
    return np.stack([file.converter.convert(frame) for frame in frames if frame is not None])


def assert_no_combs(pixels: Pixels, film: list[Pixels]) -> None:
    """Fail unless each frame shows its picture of the film, with lines as smooth as there.

    The levels may be those of the other colour matrix.
    """
    assert len(pixels) == len(film)
    height, width = pixels.shape[1:3]
    for shown, stored in zip(pixels, film, strict=True):
        picture = np.asarray(Image.fromarray(stored).resize((width, height)))  # a DV picture has pixels of 16:15
        assert read_code(shown) == read_code(picture)
        assert np.abs(shown.astype(int) - picture).mean() < 12
        assert media.measure_lines(shown) < media.measure_lines(picture) + SMOOTH


async def assert_same_from_everywhere(path: Path, everything: Pixels) -> None:
    """Fail unless frames that are read at random, sampled or read last equal those that were read in order."""
    count = len(everything)
    async with Decoder.open(path) as decoder:
        for start in (count - 1, 0, count // 2, count // 2 - 1, 1, count - 2):
            if 0 <= start < count:
                assert np.array_equal(await read_all(decoder, start, 1), everything[start : start + 1])
        assert np.array_equal((await decoder.read_last()).pixels[0], everything[-1])
        sampled = (await decoder.sample(4)).pixels
    for frame in sampled:
        assert any(np.array_equal(frame, shown) for shown in everything)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
async def test_interlaced_material_has_no_combs(tmp_path: Path, recording: Recording) -> None:
    count = 6 if recording.size[0] > 720 else 14
    film = media.draw_film(2 * count, *recording.size)
    path = media.record(tmp_path, media.interlace(film, recording.order, recording.pix_fmt), recording)
    assert max(map(media.measure_lines, read_unfiltered(path))) > media.measure_lines(film[0]) + SMOOTH
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        facts = decoder.facts
        everything = await read_all(decoder)
    assert facts.changes == {"deinterlaced": True} | ({"pixel_aspect": "16:15"} if recording.codec == "dvvideo" else {})
    assert (facts.frames, facts.rate, facts.damaged, facts.is_variable) == (count, 25, None, False)
    assert facts.duration_s == pytest.approx(count / 25)
    assert_no_combs(everything, film[::2])
    await assert_same_from_everywhere(path, everything)


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("name", ["fields.mp4", "fields.mkv", "fields.ts"])
async def test_fields_in_packets_of_their_own_are_frames(tmp_path: Path, name: str, order: media.Order) -> None:
    film = media.draw_film(24, 96, 64)
    path = record_fields(tmp_path / name, media.interlace(film, order), 25, top_first=order == "tff")
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        facts = decoder.facts
        everything = await read_all(decoder)
    assert (facts.frames, facts.rate, facts.duration_s, facts.damaged) == (12, 25, 0.48, None)
    assert facts.changes == {"deinterlaced": True}
    assert_no_combs(everything, film[::2])
    await assert_same_from_everywhere(path, everything)


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("phase", range(5))
async def test_telecined_film_is_film_again(tmp_path: Path, order: media.Order, phase: int) -> None:
    film = media.draw_film(24, hold=1)
    recording = Recording("telecine.mp4", order, options=TFF if order == "tff" else BFF)
    path = media.record(tmp_path, media.telecine(film, 20, order, phase), recording, NTSC)
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        facts = decoder.facts
        everything = await read_all(decoder)
    assert facts.changes == {"inverse_telecined": True}
    assert (facts.frames, facts.rate) == (16, FILM)
    assert facts.duration_s == pytest.approx(float(20 / NTSC))
    first = read_code(everything[0])
    assert first in ((0, 1) if phase < 2 else (phase - 1,))
    assert_no_combs(everything, film[first : first + 16])
    await assert_same_from_everywhere(path, everything)


@pytest.mark.parametrize("recording", [Recording("flags.ts", **MPEG2), Recording("no.mkv", flag="prog", options=X264)])
@pytest.mark.parametrize("frames", [10, 11, 12, 13, 14, 37])
async def test_every_film_frame_of_a_telecined_video_is_there(
    tmp_path: Path, recording: Recording, frames: int
) -> None:
    film = media.draw_film(32, 64, 48, hold=1)
    path = media.record(tmp_path, media.telecine(film, frames), recording, NTSC)
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        facts = decoder.facts
        everything = await read_all(decoder)
    assert (facts.frames, facts.rate) == (len(everything), FILM)
    assert abs(facts.duration_s - frames / NTSC) < 1 / FILM
    assert_no_combs(everything, film[: len(everything)])


async def test_advanced_pulldown_is_undone(tmp_path: Path) -> None:
    film = media.draw_film(20, hold=1)
    frames = media.telecine(film, 20, "bff", pulldown=(2, 3, 3, 2))
    path = media.record(tmp_path, frames, Recording("24pa.mp4", "bff", options=BFF), NTSC)
    async with Decoder.open(path) as decoder:
        assert decoder.facts.changes == {"inverse_telecined": True}
        assert_no_combs(await read_all(decoder), film[:16])


async def test_a_cut_behind_the_telecine_leaves_no_combs(tmp_path: Path) -> None:
    film = media.draw_film(48, hold=1)
    frames = media.telecine(film, 50)
    for cut in range(1, 5):
        kept = frames[:22] + frames[22 + cut :]
        path = media.record(tmp_path, kept, Recording(f"cut{cut}.mp4"), NTSC)
        async with Decoder.open(path) as decoder:
            assert decoder.facts.changes == {"inverse_telecined": True}
            everything = await read_all(decoder)
            assert len(everything) == decoder.facts.frames
        codes = [read_code(frame) for frame in everything]
        assert codes == sorted(codes)
        assert (
            max(map(media.measure_lines, everything)) < max(map(media.measure_lines, media.draw_film(48, hold=1))) + 4
        )
        await assert_same_from_everywhere(path, everything)


@pytest.mark.parametrize("name", ["dvd.ts", "dvd.mkv"])
async def test_film_that_is_flagged_to_be_telecined_is_film_already(tmp_path: Path, name: str) -> None:
    film = media.draw_film(24, hold=1)
    async with Decoder.open(media.record_soft_telecine(tmp_path / name, film)) as decoder:
        await decoder.verify()
        facts = decoder.facts
        everything = await read_all(decoder)
    assert (facts.frames, facts.changes, facts.damaged) == (24, {}, None)
    assert facts.duration_s == pytest.approx(float(24 / FILM), abs=0.01)
    assert_no_combs(everything, film)


@pytest.mark.parametrize(
    "recording",
    [Recording("psf.mp4"), Recording("psf.ts", **MPEG2), Recording("psf.mov", **PRORES), Recording("bff.mkv", "bff")],
    ids=lambda recording: recording.name,
)
@pytest.mark.parametrize("count", [4, 12])
async def test_progressive_video_that_is_flagged_is_not_touched(
    tmp_path: Path, recording: Recording, count: int
) -> None:
    film = [media.encode_picture(picture, recording.pix_fmt) for picture in media.draw_film(count, 64, 48, hold=1)]
    path = media.record(tmp_path, film, recording)
    async with Decoder.open(path) as decoder:
        assert decoder.facts.changes == {}
        assert np.array_equal(await read_all(decoder), read_unfiltered(path))


def draw_noise(number: int) -> Pixels:
    return np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def draw_scanlines(number: int) -> Pixels:
    """Return a picture whose every second line is black, as of an old screen."""
    picture = media.draw_film(number + 1, 64, 48, hold=1)[-1]
    picture[1::2] = 0
    return picture


def draw_scrolling_stripes(number: int) -> Pixels:
    """Return thin horizontal lines that move downwards."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[(np.arange(48) - number) % 3 == 0] = 255
    return picture


@pytest.mark.parametrize("draw", [draw_noise, draw_scanlines, draw_scrolling_stripes])
async def test_fine_detail_is_no_comb(tmp_path: Path, draw: Callable[[int], Pixels]) -> None:
    frames = [media.encode_picture(draw(number)) for number in range(30)]
    path = media.record(tmp_path, frames, Recording("fine.mp4", "prog", options=X264))
    async with Decoder.open(path) as decoder:
        assert decoder.facts.changes == {}
        assert np.abs((await read_all(decoder)).astype(int) - read_unfiltered(path)).max() == 0


async def test_only_the_interlaced_part_of_a_video_is_deinterlaced(tmp_path: Path) -> None:
    film = media.draw_film(60)
    progressive = [media.encode_picture(picture) for picture in film[:20:2]]
    path = media.record(tmp_path, progressive + media.interlace(film[20:], "tff"), Recording("mixed.mp4"))
    async with Decoder.open(path) as decoder:
        assert decoder.facts.changes == {"deinterlaced": True}
        everything = await read_all(decoder)
    assert_no_combs(everything, film[::2])
    assert np.array_equal(everything[:9], read_unfiltered(path)[:9])
    await assert_same_from_everywhere(path, everything)


@pytest.mark.parametrize("is_film", [False, True])
async def test_what_stands_for_missing_frames_has_no_combs(tmp_path: Path, is_film: bool) -> None:
    film = media.draw_film(80, hold=1 if is_film else 2)
    frames = media.telecine(film, 40) if is_film else media.interlace(film, "tff")
    options = {**TFF, "x264-params": "tff=1:keyint=10:scenecut=0"}
    path = media.record(tmp_path, frames, Recording("damaged.mp4", options=options), NTSC)
    spoil(path, range(16, 20))  # up to the next keyframe
    async with Decoder.open(path) as decoder:
        everything = await read_all(decoder)
        assert decoder.facts.damaged is not None
    assert max(map(media.measure_lines, everything)) < max(map(media.measure_lines, film)) + 2
    await assert_same_from_everywhere(path, everything)


@pytest.mark.parametrize("flag", ["tff", "prog"])
async def test_combs_behind_a_title_are_found(tmp_path: Path, flag: media.Order) -> None:
    film = [media.draw_film(1)[0]] * 60 + media.draw_film(40)
    recording = Recording("title.mkv", flag=flag, options=TFF if flag == "tff" else X264)
    path = media.record(tmp_path, media.interlace(film, "tff"), recording)
    async with Decoder.open(path) as decoder:
        assert decoder.facts.changes == {"deinterlaced": True}
        assert_no_combs(await read_all(decoder), film[::2])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
async def test_short_interlaced_videos(tmp_path: Path, count: int) -> None:
    film = media.draw_film(2 * count)
    path = media.record(tmp_path, media.interlace(film, "tff"), Recording("short.mp4"))
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        assert (decoder.facts.frames, decoder.facts.changes) == (count, {"deinterlaced": True})
        everything = await read_all(decoder)
        assert np.array_equal((await decoder.sample(16)).pixels, everything)
    assert_no_combs(everything, film[::2])


@pytest.mark.parametrize("is_film", [False, True])
async def test_memory_does_not_grow_with_the_video(tmp_path: Path, is_film: bool) -> None:
    cycle = media.draw_film(32, 640, 360, hold=1)
    frames = media.telecine(cycle * 10, 320) if is_film else media.interlace(cycle * 20, "tff")
    path = media.record(tmp_path, frames, Recording("long.mp4"), NTSC)
    async with Decoder.open(path) as decoder:
        (worker,) = workers()
        seen = [worker.memory_info().rss async for _ in decoder.stream_runs()]
        assert len(decoder.facts.changes) == 1
    assert len(seen) == (16 if is_film else 20)
    assert max(seen) - seen[2] < 16 << 20


@pytest.mark.parametrize("name", ["interlaced.mp4", "interlaced.ts", "telecine.mp4"])
async def test_samples(name: str) -> None:
    """A bar of 8 pixels moves by 4 in each field, or by 5 in each film frame."""
    is_film = name.startswith("telecine")
    async with Decoder.open(SAMPLES / name) as decoder:
        facts = decoder.facts
        everything = await read_all(decoder)
    assert facts.changes == {"inverse_telecined" if is_film else "deinterlaced": True}
    assert (facts.frames, facts.rate) == ((8, FILM) if is_film else (6, Fraction(25)))
    assert facts.duration_s == pytest.approx(float(10 / NTSC) if is_film else 0.24)
    for number, frame in enumerate(everything):
        columns = np.flatnonzero((frame > 128).all(-1).all(0))
        left = 4 + number * (5 if is_film else 8)
        assert (columns[0], columns[-1]) == (left, left + 7)
        assert media.measure_lines(frame) < 2


async def test_pictures_are_not_deinterlaced(tmp_path: Path) -> None:
    film = media.draw_film(2, 64, 48)
    combed = film[0].copy()
    combed[1::2] = film[1][1::2]
    path = tmp_path / "combed.png"
    Image.fromarray(combed).save(path)
    facts = await probe_media(path)
    assert facts.changes == {}
