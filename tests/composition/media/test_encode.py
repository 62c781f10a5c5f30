"""Encoding: every prefix of the segments plays, timestamps are exact, and equal frames give equal bytes."""

import io
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from PIL import Image

from composition.media.encode import SegmentEncoder, encode_jpeg, encode_png, remux, resize_frames
from composition.media.encoders import Encoder
from composition.media.encoding import Encoding
from services.frames import Frames, Pixels
from tests.composition import sample_media as media

RATES = [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25, 2), Fraction(1, 3), *map(Fraction, (7, 16, 25, 60))]
CUTS = (1, 8, 5)
"""Number of frames in each segment."""


def frames(count: int, width: int = 64, height: int = 48) -> Pixels:
    return np.stack([media.numbered(n, width, height) for n in range(count)])


def segments(encoder: SegmentEncoder, pixels: Pixels, cuts: tuple[int, ...] = CUTS) -> list[bytes]:
    firsts = [sum(cuts[:i]) for i in range(len(cuts))]
    return [
        encoder.encode_segment(pixels[first : first + count], first, sequence)
        for sequence, (first, count) in enumerate(zip(firsts, cuts, strict=True), 1)
    ]


@dataclass(frozen=True)
class Shown:
    """The content of a file, as a player reads it."""

    frames: list[VideoFrame]
    times: list[Fraction]
    rate: Fraction | None
    duration: Fraction
    said_frames: int
    """Duration according to the header."""
    size: tuple[int, int]
    colour: tuple[int, int, int, int]
    """Colour matrix, range, primaries and transfer function."""


def decoded(data: bytes) -> Shown:
    with av.open(io.BytesIO(data), "r") as container:
        stream: Any = container.streams.video[0]
        shown = list(container.decode(stream))
        context = stream.codec_context
        return Shown(
            shown,
            [frame.pts * stream.time_base for frame in shown],
            stream.average_rate,
            (stream.duration or 0) * stream.time_base,
            stream.frames,
            (context.width, context.height),
            (context.colorspace, context.color_range, context.color_primaries, context.color_trc),
        )


def rgb(frame: VideoFrame) -> Pixels:
    """Pixels as shown by a player that follows the colour tags."""
    return np.asarray(frame.reformat(format="rgb24", dst_color_range=2).to_ndarray(), np.uint8)


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_every_prefix_plays_with_exact_times(rate: Fraction) -> None:
    encoder = SegmentEncoder(64, 48, rate)
    data = encoder.encode_init()
    for played, segment in zip((1, 9, 14), segments(encoder, frames(14)), strict=True):
        data += segment
        shown = decoded(data)
        assert [media.number_of(rgb(frame)) for frame in shown.frames] == list(range(played))
        assert shown.times == [n / rate for n in range(played)]
        assert shown.rate == rate
        assert shown.duration == played / rate


def test_the_initialisation_segment_has_no_frame_and_says_the_duration() -> None:
    rate = Fraction(24000, 1001)
    init = SegmentEncoder(64, 48, rate, total_frames=48).encode_init()
    assert [name for name, _ in media.boxes(init)] == ["ftyp", "moov"]
    (timescale,) = struct.unpack_from(">I", media.box(init, "moov", "mvhd"), 12)
    (duration,) = struct.unpack(">Q", media.box(init, "moov", "mvex", "mehd")[4:])
    assert Fraction(duration, timescale) == 48 / rate
    endless = SegmentEncoder(64, 48, rate).encode_init()
    assert "mehd" not in dict(media.boxes(media.box(endless, "moov", "mvex")))


def test_a_segment_is_one_fragment_that_knows_its_place() -> None:
    encoder = SegmentEncoder(64, 48, Fraction(25))
    segment = encoder.encode_segment(frames(5), 1000, 7)
    assert [name for name, _ in media.boxes(segment)] == ["moof", "mdat"]
    assert struct.unpack(">I", media.box(segment, "moof", "mfhd")[4:]) == (7,)
    shown = decoded(encoder.encode_init() + segment)
    assert shown.times[0] == 40
    assert [frame.key_frame for frame in shown.frames] == [True, False, False, False, False]


def test_the_same_frames_give_the_same_bytes() -> None:
    """A job that is resumed on another machine must write the same bytes."""
    pixels = np.random.default_rng(0).integers(0, 255, (14, 48, 64, 3), dtype=np.uint8)
    whole = segments(SegmentEncoder(64, 48, Fraction(25), total_frames=14), pixels)
    resumed = SegmentEncoder(64, 48, Fraction(25))
    assert resumed.encode_segment(pixels[9:], 9, 3) == whole[2]
    runs = [Frames(pixels[1:4], 1, Fraction(25)), Frames(pixels[4:9], 4, Fraction(25))]
    assert resumed.encode_segment(runs, 1, 2) == whole[1]


def test_a_pixel_that_differs_changes_only_its_own_segment() -> None:
    pixels = frames(14)
    before = segments(SegmentEncoder(64, 48, Fraction(25)), pixels)
    pixels[0] = 90
    after = segments(SegmentEncoder(64, 48, Fraction(25)), pixels)
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True]


@pytest.mark.parametrize("size", [(64, 48), (16, 16), (33, 17), (1280, 720)], ids=str)
def test_colours_survive(size: tuple[int, int]) -> None:
    width, height = size
    encoder = SegmentEncoder(width, height, Fraction(25))
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (200, 30, 90), (255, 255, 255), (0, 0, 0)]
    pixels = np.stack([media.solid(colour, width, height) for colour in colours])
    shown = decoded(encoder.encode_init() + encoder.encode_segment(pixels, 0, 1))
    assert shown.size == (width, height)
    assert shown.colour == (1, 1, 1, 1)
    for frame, colour in zip(shown.frames, colours, strict=True):
        assert np.abs(rgb(frame).astype(int) - np.array(colour)).max() <= 3


def test_the_colours_are_tagged_in_the_container_too() -> None:
    init = SegmentEncoder(64, 48, Fraction(25)).encode_init()
    at = init.index(b"colrnclx")
    assert struct.unpack_from(">HHHB", init, at + 8) == (1, 1, 1, 0)


def test_an_odd_size_is_cropped_by_the_container() -> None:
    pixels = np.full((2, 17, 33, 3), 20, np.uint8)
    pixels[:, :, -1] = 220
    encoder = SegmentEncoder(33, 17, Fraction(25), encoder=Encoder("libx264", Encoding(crf=1)))
    picture = rgb(decoded(encoder.encode_init() + encoder.encode_segment(pixels, 0, 1)).frames[0])
    assert picture.shape == (17, 33, 3)
    assert np.abs(picture[:, 32:].astype(int) - 220).max() <= 6
    assert np.abs(picture[:, :30].astype(int) - 20).max() <= 6


def test_times_of_a_variable_rate_are_exact(tmp_path: Path) -> None:
    """A screen recording, continued at another rate, whose last frame stays for eleven seconds."""
    still = [Fraction(n, 30) for n in (0, 1, 2, 3, 63, 64)]
    times = [*still, *(still[-1] + n * Fraction(1001, 24000) for n in range(1, 8)), Fraction(14)]
    encoder = SegmentEncoder(64, 48, Fraction(30), total_frames=13, variable=True)
    pixels, data = frames(13), encoder.encode_init()
    for sequence, (first, stop) in enumerate(((0, 4), (4, 13)), 1):
        data += encoder.encode_segment(pixels[first:stop], first, sequence, times[first : stop + 1])
    source, target = tmp_path / "fragments.mp4", tmp_path / "whole"
    source.write_bytes(data)
    remux(source, target)
    for shown in (decoded(data), decoded(target.read_bytes())):
        assert [media.number_of(rgb(frame)) for frame in shown.frames] == list(range(13))
        assert shown.times == times[:-1]
        assert shown.duration == 14


def test_times_that_do_not_suit_the_frames_are_refused() -> None:
    constant, variable = (SegmentEncoder(64, 48, Fraction(25), variable=varies) for varies in (False, True))
    for encoder, times in (
        (constant, (Fraction(0), Fraction(1))),
        (variable, None),
        (variable, (Fraction(0),)),
        (variable, (Fraction(0), Fraction(1, 10**8))),
    ):
        with pytest.raises(ValueError, match="times: must"):
            encoder.encode_segment(frames(1), 0, 1, times)


def test_what_cannot_be_encoded_is_refused() -> None:
    encoder = SegmentEncoder(64, 48, Fraction(25))
    with pytest.raises(ValueError, match="needs at least 1 frame"):
        encoder.encode_segment(frames(1)[:0], 0, 1)
    with pytest.raises(ValueError, match="48, 64, 3"):
        encoder.encode_segment(frames(1, 32, 32), 0, 1)
    for rate in (Fraction(0), Fraction(-1), Fraction(1 << 31)):
        with pytest.raises(ValueError, match="rate"):
            SegmentEncoder(64, 48, rate)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(7)], ids=str)
def test_the_whole_is_progressive_and_copied(tmp_path: Path, rate: Fraction) -> None:
    encoder = SegmentEncoder(64, 48, rate, total_frames=14)
    data = encoder.encode_init() + b"".join(segments(encoder, frames(14)))
    source, target = tmp_path / "fragments.mp4", tmp_path / "whole"
    source.write_bytes(data)
    remux(source, target)
    whole = target.read_bytes()
    assert [name for name, _ in media.boxes(whole) if name in ("moov", "moof", "mdat")] == ["moov", "mdat"]
    before, after = decoded(data), decoded(whole)
    assert (after.said_frames, after.rate, after.duration) == (14, rate, 14 / rate)
    assert after.times == [n / rate for n in range(14)]
    assert [frame.key_frame for frame in after.frames] == [n in (0, 1, 9) for n in range(14)]
    assert after.colour == (1, 1, 1, 1)
    for old, new in zip(before.frames, after.frames, strict=True):
        assert np.array_equal(old.to_ndarray(), new.to_ndarray())


@pytest.mark.parametrize("size", [(32, 24), (128, 96), (47, 31), (1, 1)], ids=str)
def test_resizing_keeps_colours_and_places(size: tuple[int, int]) -> None:
    pixels = np.zeros((3, 48, 64, 3), np.uint8)
    pixels[:, :, :32], pixels[:, :, 32:] = (200, 30, 90), (20, 180, 220)
    made = resize_frames(Frames(pixels, 5, Fraction(7)), *size)
    assert (made.width, made.height, made.count, made.first, made.rate) == (*size, 3, 5, Fraction(7))
    if size != (1, 1):
        assert np.abs(made.pixels[:, :, 0].astype(int) - (200, 30, 90)).max() <= 2
        assert np.abs(made.pixels[:, :, -1].astype(int) - (20, 180, 220)).max() <= 2
    assert resize_frames(made, *size) is made


def test_shrinking_averages() -> None:
    fine = np.zeros((1, 64, 64, 3), np.uint8)
    fine[:, ::2, ::2], fine[:, 1::2, 1::2] = 255, 255
    small = resize_frames(Frames(fine), 16, 16).pixels
    assert np.abs(small.astype(int) - 127).max() <= 3


@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1), (640, 360)], ids=str)
def test_pictures_are_read_by_others(size: tuple[int, int]) -> None:
    width, height = size
    pixels = media.solid((200, 30, 90), width, height)
    picture = Image.open(io.BytesIO(encode_jpeg(pixels, 320)))
    assert picture.format == "JPEG"
    assert picture.size == ((320, 180) if width > 320 else size)
    assert np.abs(np.asarray(picture).astype(int) - (200, 30, 90)).max() <= 4
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    exact = Image.open(io.BytesIO(encode_png(noise)))
    assert exact.format == "PNG"
    assert np.array_equal(np.asarray(exact), noise)
