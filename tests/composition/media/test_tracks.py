"""The track that is shown: the one that a player would choose."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import VideoFrame

from composition.media.decode import Decoder
from composition.media.decoding.worker import spread_positions
from services.errors import UndecodableMedia
from tests.composition.cards import draw_card, read_code

MAIN, PREVIEW, ANGLE = 40, 2, 20
"""Numbers of the first card of each track."""


@dataclass(frozen=True)
class Track:
    first: int
    size: tuple[int, int]
    frames: int = 6
    disposition: Disposition = Disposition(0)  # noqa: RUF009 - a constant
    codec: str = "libx264"


def write(path: Path, *tracks: Track) -> Path:
    """Write a file with several video tracks, one after the other."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for track in tracks:
            stream: Any = container.add_stream(track.codec, rate=12)
            stream.width, stream.height = track.size
            stream.pix_fmt = "yuvj420p" if track.codec == "mjpeg" else "yuv420p"
            stream.disposition = track.disposition
            streams.append(stream)
        for track, stream in zip(tracks, streams, strict=True):
            for number in range(track.frames):
                card = draw_card(track.first + number, *track.size)
                frame = VideoFrame.from_ndarray(card, "rgb24").reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, 12)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


MAIN_TRACK = Track(MAIN, (96, 72), disposition=Disposition.default)
PREVIEWS = {
    "preview": Track(PREVIEW, (32, 32), 1, codec="mjpeg"),
    "default preview": Track(PREVIEW, (32, 32), 1, Disposition.default, "mjpeg"),
    "large still": Track(PREVIEW, (192, 144), 1, Disposition.default, "mjpeg"),
    "cover": Track(PREVIEW, (192, 144), 1, Disposition.attached_pic, "mjpeg"),
    "small film": Track(PREVIEW, (48, 32)),
    "small default film": Track(PREVIEW, (48, 32), disposition=Disposition.default),
    "second angle": Track(ANGLE, (96, 72), frames=4),
}


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize(
    ("name", "container"),
    [
        (name, container)
        for name in PREVIEWS
        for container in ("mp4", "mov", "mkv")
        if name != "cover" or container != "mkv"  # Matroska has covers as attachments
    ],
)
async def test_no_preview_is_taken_for_the_film(tmp_path: Path, name: str, container: str, is_first: bool) -> None:
    tracks = (PREVIEWS[name], MAIN_TRACK) if is_first else (MAIN_TRACK, PREVIEWS[name])
    async with Decoder.open(write(tmp_path / f"a.{container}", *tracks)) as decoder:
        facts, (run,) = decoder.facts, [run async for run in decoder.stream_runs()]
    assert (facts.width, facts.height, facts.frames, facts.rate, facts.codec) == (96, 72, 6, 12, "h264")
    assert [read_code(pixels) for pixels in run.pixels] == list(range(MAIN, MAIN + 6))


async def test_the_default_track_is_taken_before_a_larger_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", Track(ANGLE, (192, 144)), MAIN_TRACK)
    async with Decoder.open(path) as decoder:
        assert read_code((await decoder.read_last()).pixels[0]) == MAIN + 5


async def test_of_equal_tracks_the_first_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", Track(ANGLE, (96, 72)), Track(MAIN, (96, 72)))
    async with Decoder.open(path) as decoder:
        assert read_code((await decoder.read_last()).pixels[0]) == ANGLE + 5


async def test_of_two_programmes_the_larger_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", Track(ANGLE, (48, 32)), Track(MAIN, (96, 72)))
    async with Decoder.open(path) as decoder:
        assert decoder.facts.frames == 6
        assert read_code((await decoder.read_last()).pixels[0]) == MAIN + 5


def patch_box(path: Path, kind: bytes, nth: int, offset: int, data: bytes) -> None:
    """Overwrite bytes of the nth box of a kind, counted from its kind."""
    content = bytearray(path.read_bytes())
    at = -1
    for _ in range(nth + 1):
        at = content.index(kind, at + 1)
    content[at + offset : at + offset + len(data)] = data
    path.write_bytes(content)


async def test_a_disabled_track_is_not_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mov", Track(ANGLE, (192, 144)), MAIN_TRACK)
    patch_box(path, b"tkhd", 0, 4, struct.pack(">I", 2))  # version and flags: in the movie, not enabled
    patch_box(path, b"tkhd", 1, 4, struct.pack(">I", 3))
    async with Decoder.open(path) as decoder:
        assert read_code((await decoder.read_last()).pixels[0]) == MAIN + 5


async def test_an_auxiliary_track_such_as_depth_is_not_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Track(ANGLE, (192, 144), disposition=Disposition.default), MAIN_TRACK)
    patch_box(path, b"hdlr", 0, 12, b"auxv")
    async with Decoder.open(path) as decoder:
        assert read_code((await decoder.read_last()).pixels[0]) == MAIN + 5


async def test_a_cover_alone_is_no_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", PREVIEWS["cover"])
    with pytest.raises(UndecodableMedia, match="no video stream"):
        async with Decoder.open(path):
            pass


async def test_sampling_takes_the_same_track(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mov", PREVIEWS["small film"], MAIN_TRACK)
    async with Decoder.open(path) as decoder:
        sampled = await decoder.sample(3)
        (whole,) = [run.pixels async for run in decoder.stream_runs()]
    assert sampled.pixels.shape == (3, 72, 96, 3)
    assert np.abs(sampled.pixels.astype(int) - whole[spread_positions(3, 6)]).max() <= 2
