"""Sample files, created on demand: unusual ones that must be accepted, and hostile ones that must be rejected."""

import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from services.frames import Pixels
from tests.composition import heif

BUNNY = Path(__file__).parents[2] / "clients" / "media" / "bigbuckbunny.mp4"
"""132 frames, 1280x720, H.264 in one group of pictures, no colour tags, with sound."""
BITS = 8


def numbered(number: int, width: int = 64, height: int = 48) -> Pixels:
    """Return an (h, w, 3) frame that encodes its number, 0 to 255, as black and white bars that survive any codec."""
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bars, np.uint8), -(-width // BITS))[:width]
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number_of(pixels: Pixels) -> int:
    """Return the number that is encoded in a frame."""
    height, width = pixels.shape[:2]
    bar = -(-width // BITS)
    return sum(int(pixels[height // 2, bit * bar + bar // 2].mean() > 127) << bit for bit in range(BITS))


def solid(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> Pixels:
    return np.ascontiguousarray(np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)))


@dataclass(frozen=True)
class Coding:
    """Encoding of a clip."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    form: str | None = None
    matrix: int = 1
    """Colour matrix: 1 is BT.709, 5 is BT.601."""
    range: int = 1
    """Colour range: 1 is limited, 2 is full."""
    tagged: bool = True
    degrees: int = 0
    """Rotation on display, in degrees counterclockwise."""
    mirrored: bool = False


PLAIN = Coding(options={"crf": "10", "preset": "ultrafast"})


def clip(
    path: Path,
    frames: Sequence[Pixels],
    rate: Fraction | int = 25,
    coding: Coding = PLAIN,
    times: Sequence[int] | None = None,
    last: int = 1,
) -> Path:
    """Write a video. `times` are presentation times in frames, by default 0, 1, 2 …; the last one lasts `last`."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", format=coding.form, options=coding.container) as container:
        stream: Any = container.add_stream(coding.codec, rate=rate, options=coding.options)
        stream.width, stream.height, stream.pix_fmt = width, height, coding.pix_fmt
        if coding.tagged:
            stream.codec_context.colorspace, stream.codec_context.color_range = coding.matrix, coding.range
        if coding.degrees or coding.mirrored:
            stream.set_display_rotation(coding.degrees, hflip=coding.mirrored)
        for number, pixels in zip(times or range(len(frames)), frames, strict=True):
            container.mux(stream.encode(_coded(pixels, coding, number, 1 / Fraction(rate))))
        for packet in stream.encode():
            if times is not None and packet.pts == times[-1]:
                packet.duration = last
            container.mux(packet)
    return path


def _coded(pixels: Pixels, coding: Coding, number: int, unit: Fraction) -> VideoFrame:
    frame = VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format=coding.pix_fmt,
        dst_colorspace=Colorspace(coding.matrix),
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange(coding.range),
    )
    if not coding.tagged:
        frame.colorspace, frame.color_range = 2, 0
    frame.pts, frame.time_base = number, unit
    return frame


def count(path: Path, frames: int = 40, coding: Coding = PLAIN, rate: Fraction | int = 25) -> Path:
    """Write a video of numbered frames."""
    return clip(path, [numbered(n) for n in range(frames)], rate, coding)


def one_frame(folder: Path) -> Path:
    return count(folder / "one.mp4", 1)


def damaged_middle(folder: Path) -> Path:
    """The bunny with 50,000 bytes overwritten: 6 frames do not decode, the last one does."""
    data = bytearray(BUNNY.read_bytes())
    data[200_000:250_000] = random.Random(0).randbytes(50_000)
    return _written(folder / "damaged.mp4", bytes(data))


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def picture(path: Path, pixels: Pixels, **how: Any) -> Path:
    """Write a picture in the format of the file name's extension. Array shapes as in Pillow."""
    Image.fromarray(pixels).save(path, **how)
    return path


def png_header(width: int, height: int) -> bytes:
    """Return a PNG with a header of this size and hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def _sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), "fltp", "mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "empty_moov"}) as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def _no_index(path: Path) -> None:
    whole = BUNNY.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def spoil(path: Path, packets: Iterable[int]) -> None:
    """Overwrite some packets of a video, in file order, so that they cannot be decoded."""
    with av.open(str(path)) as container:
        places = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for place, size in (places[number] for number in packets):
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)


def _broken_end(path: Path) -> None:
    """Write a video with all its packets, of which the last ten are random bytes."""
    spoil(clip(path, list(_noise(40))), range(30, 40))


def _noise(frames: int) -> Iterator[Pixels]:
    rng = np.random.default_rng(0)
    return (rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(frames))


def _three_hours(path: Path) -> None:
    clip(path, [numbered(0), numbered(1)], 1, times=[0, 3 * 3600])


def _huge_header(path: Path) -> None:
    """Write a 64x48 clip whose header declares 60000x60000, in a codec that takes its size from there."""
    clip(path, [numbered(0)], coding=Coding("qtrle", "rgb24", tagged=False))
    size = struct.pack(">HH", 64, 48)
    data = path.read_bytes()
    at = data.index(size, data.index(b"rle "))
    path.write_bytes(data[:at] + struct.pack(">HH", 60_000, 60_000) + data[at + 4 :])


def _huge_picture(path: Path, form: str) -> None:
    Image.new("L", (9000, 2000)).convert("P" if form == "gif" else "RGB").save(path, form)


def _cut_animation(path: Path, size: int) -> None:
    """Write the first bytes of an animated WebP."""
    picture(path, numbered(0), save_all=True, append_images=[Image.fromarray(numbered(1))])
    path.write_bytes(path.read_bytes()[:size])


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: _written(path, text.encode()) and None


def _halved(path: Path) -> None:
    picture(path, next(_noise(1)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "empty.mp4": (_text(""), ("empty",)),
    "text.mp4": (_text("This is not a film.\n" * 100), ("text",)),
    "noise.mp4": (lambda path: path.write_bytes(random.Random(1).randbytes(5000)), ("format must be one of", "MP4")),
    "sound.mp4": (_sound, ("no video", "audio")),
    "no-frames.mp4": (_no_frames, ("frame",)),
    "no-index.mp4": (_no_index, ("index", "truncated")),
    "broken-end.mp4": (_broken_end, ("end of the video cannot be decoded", "30 of 40")),
    "three-hours.mp4": (_three_hours, ("duration", "10801.0 s", "1800 s", "max_duration_s")),
    "huge-header.mov": (_huge_header, ("exceeds", "16777216", "max_pixels")),
    "huge.png": (lambda path: path.write_bytes(png_header(60_000, 60_000)), ("60000x60000", "8192")),
    "thin.png": (lambda path: path.write_bytes(png_header(8000, 10)), ("8000x10", "16", "min_side")),
    "long.png": (lambda path: path.write_bytes(png_header(10_000, 10)), ("10000x10", "8192", "max_side")),
    "large.png": (lambda path: path.write_bytes(png_header(8000, 8000)), ("64000000", "16777216", "max_pixels")),
    "huge.jpg": (lambda path: _huge_picture(path, "jpeg"), ("9000x2000", "8192")),
    "huge.webp": (lambda path: _huge_picture(path, "webp"), ("9000x2000", "8192")),
    "huge.gif": (lambda path: _huge_picture(path, "gif"), ("9000x2000", "8192")),
    "half.png": (_halved, ("truncated",)),
    "half.jpg": (_halved, ("truncated",)),
    "half.webp": (_halved, ("truncated",)),
    "half.heic": (lambda path: path.write_bytes(heif.write_heic(numbered(0))[:-500]), ("HEIC", "truncated")),
    "half.avif": (_halved, ("AVIF", "truncated")),
    "no-frame.webp": (lambda path: _cut_animation(path, 60), ("WebP", "truncated", "first frame")),
    "huge.heic": (
        lambda path: path.write_bytes(heif.write_heic(numbered(0), ispe=(9000, 2000))),
        ("9000x2000", "8192"),
    ),
    "huge.avif": (lambda path: _huge_picture(path, "avif"), ("9000x2000", "8192")),
    "photo.jxl": (lambda path: path.write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100)), ("JPEG XL", "PNG", "HEIC")),
    "stream.jxl": (lambda path: path.write_bytes(b"\xff\x0a" + bytes(100)), ("JPEG XL", "PNG", "HEIC")),
    "photo.tiff": (lambda path: picture(path, numbered(0)), ("format must be one of", "PNG", "HEIC")),
    "photo.bmp": (lambda path: picture(path, numbered(0)), ("format must be one of", "PNG", "HEIC")),
    "list.m3u8": (_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{BUNNY}\n#EXT-X-ENDLIST\n"), ("text",)),
    "list.ffconcat": (_text(f"ffconcat version 1.0\nfile '{BUNNY}'\n"), ("text",)),
    "call.sdp": (_text("v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"), ("text",)),
}
"""Files that must be rejected: name → how to write the file, and parts of the error message."""


def bad(name: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Write a file of BAD; return its path and the parts of the error message."""
    make, words = BAD[name]
    path = folder / name
    make(path)
    return path, words


def boxes(data: bytes) -> list[tuple[str, bytes]]:
    """Yield name and content of the boxes in an MP4 file or box."""
    found: list[tuple[str, bytes]] = []
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind.decode(), data[at + 8 : at + size]))
        at += size
    return found


def box(data: bytes, *path: str) -> bytes:
    """Return the content of the first box at a path such as `moov`, `mvex`."""
    for name in path:
        data = dict(reversed(boxes(data)))[name]
    return data


def turn(source: Path, target: Path, degrees: int) -> Path:
    """Copy the video of a file with a rotation on display, in degrees counterclockwise."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream: Any = new.add_stream_from_template(old.streams.video[0])
        stream.set_display_rotation(degrees)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target
