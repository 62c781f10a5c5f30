"""Recipes of hostile media files: small ones that ask for much memory or much time, or that lie about themselves.

Each is written on demand (`write_hostile`), so the repository holds none of them.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.packet import Packet
from PIL import Image

from tests.composition.sample_media import png_header

TRIANGLE = Path(__file__).parents[3] / "clients" / "media" / "bouncing-triangle.mp4"
MIB = 1 << 20
LARGE = 4096, 2304
SKIPPED = range(17, 33)
"""Frames of the slow video that are repeated: they change nothing, and may follow one another."""

Answer = Literal["accepted", "undecodable_media", "limit_exceeded"]


@dataclass(frozen=True)
class Recipe:
    """A hostile file.

    Args:
        kind: what it is, as a row of a table.
        suffix: of its name.
        make: returns its content.
        answers: what the decoder may say: codes of errors, and `accepted` if the file is harmless after all.
    """

    kind: str
    suffix: str
    make: Callable[[], bytes]
    answers: tuple[Answer, ...]


def write_hostile(name: str, folder: Path) -> Path:
    """Write the file of a recipe to a folder, and return its path."""
    recipe = RECIPES[name]
    path = folder / f"{name}.{recipe.suffix}"
    path.write_bytes(recipe.make())
    return path


def deflate_zeros(mebibytes: int) -> bytes:
    """Return a raw deflate stream of zero bytes, made without compressing them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * mebibytes + packer.flush(zlib.Z_FINISH)


def zlib_zeros(mebibytes: int) -> bytes:
    """Return a zlib stream of zero bytes."""
    size = mebibytes * MIB
    return b"\x78\xda" + deflate_zeros(mebibytes) + struct.pack(">HH", size % 65521, 1)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 64, height: int = 64, *, extra: bytes = b"", pixels: bytes | None = None, depth: int = 8) -> bytes:
    """Return a PNG file, of RGBA if it has 16 bits for a sample and of RGB otherwise.

    Args:
        width, height: in pixels.
        extra: chunks before the pixels.
        pixels: the zlib stream of the pixels; None for black ones.
        depth: bits of a sample.
    """
    samples = 8 if depth == 16 else 3
    data = zlib.compress(bytes((1 + samples * width) * height), 9) if pixels is None else pixels
    header = struct.pack(">IIBBBBB", width, height, depth, 6 if depth == 16 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def make_apng(frames: int) -> bytes:
    """Return an animated PNG of 16x16 pixels."""
    pixels = zlib.compress((b"\0" + b"\1\2\3" * 16) * 16)
    control = struct.Struct(">IIIIIHHBB")
    parts = [chunk(b"fcTL", control.pack(0, 16, 16, 0, 0, 1, 100, 0, 0)), chunk(b"IDAT", pixels)]
    for number in range(1, frames):
        parts.append(chunk(b"fcTL", control.pack(2 * number - 1, 16, 16, 0, 0, 1, 100, 0, 0)))
        parts.append(chunk(b"fdAT", struct.pack(">I", 2 * number) + pixels))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    announced = chunk(b"acTL", struct.pack(">II", frames, 0))
    return b"\x89PNG\r\n\x1a\n" + header + announced + b"".join(parts) + chunk(b"IEND", b"")


def make_gif(screen: tuple[int, int], frames: int, frame: tuple[int, int] | None = None) -> bytes:
    """Return a GIF whose frames have one pixel of data each."""
    head = b"GIF89a" + struct.pack("<HH", *screen) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    image = b"\x21\xf9\x04\0\1\0\0\0\x2c\0\0\0\0" + struct.pack("<HH", *(frame or screen)) + b"\0\2\2\x44\1\0"
    return head + image * frames + b";"


def riff(data: bytes) -> bytes:
    """Return a WebP file."""
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def make_webp_header(side: int) -> bytes:
    """Return an extended WebP file that has a size and no picture."""
    return riff(b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + 2 * (side - 1).to_bytes(3, "little"))


def make_webp_animation(side: int, frames: int) -> bytes:
    """Return an animated WebP of large frames with little in them."""
    drawn = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(drawn, "WEBP", lossless=True)
    picture = drawn.getvalue()[12:]
    size = (side - 1).to_bytes(3, "little")
    frame = bytes(6) + 2 * size + b"\x28\0\0\0" + picture
    head = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + 2 * size + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return riff(head + (b"ANMF" + struct.pack("<I", len(frame)) + frame) * frames)


def make_jpeg(side: int, *, progressive: bool = False) -> bytes:
    drawn = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(drawn, "JPEG", progressive=progressive)
    return drawn.getvalue()


def make_jpeg_of_size(width: int, height: int) -> bytes:
    """Return a small JPEG that declares another size."""
    data = make_jpeg(64)
    at = data.find(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def make_jpeg_of_scans(side: int, times: int) -> bytes:
    """Return a progressive JPEG whose scans are repeated."""
    data = make_jpeg(side, progressive=True)
    at = data.find(b"\xff\xda")
    return data[:at] + data[at:-2] * times + b"\xff\xd9"


def box(kind: bytes, *content: bytes) -> bytes:
    """Return a box of an MP4 file."""
    data = b"".join(content)
    return struct.pack(">I", 8 + len(data)) + kind + data


FTYP = box(b"ftyp", b"isom\0\0\0\0isom")
CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts"})


def rebuild(data: bytes, replaced: bytes, content: Callable[[bytes], bytes]) -> bytes:
    """Return the boxes of an MP4 file with the content of one kind replaced."""
    built, at = b"", 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        inner = data[at + 8 : at + size]
        if kind in CONTAINERS:
            inner = rebuild(inner, replaced, content)
        built += box(kind, content(inner) if kind == replaced else inner)
        at += size
    return built


def spoil_box(kind: bytes, content: bytes) -> bytes:
    """Return a video in which a box has other content behind its version and flags."""
    return rebuild(TRIANGLE.read_bytes(), kind, lambda old: old[:4] + content)


def make_edit_list(entries: int) -> bytes:
    return spoil_box(b"elst", struct.pack(">I", entries) + struct.pack(">IiI", 1, 0, 0x10000) * entries)


def make_deep_boxes(depth: int) -> bytes:
    return FTYP + b"".join(struct.pack(">I4s", 8 * (depth - level), b"moov") for level in range(depth))


def make_compressed_index() -> bytes:
    """Return a video whose index is compressed, and declares 4 GiB."""
    data = TRIANGLE.read_bytes()
    packed = box(b"cmvd", struct.pack(">I", 0xFFFFFFF0) + zlib_zeros(1024))
    moov = box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + packed))
    return data[: data.find(b"moov") - 4] + moov


def make_zip(entries: list[tuple[bytes, bytes, int, int]], *, is_shared: bool = False) -> bytes:
    """Return a zip archive.

    Args:
        entries: name, deflated data, checksum and declared size of each file.
        is_shared: whether every entry of the directory refers to the first file.
    """
    body, directory, at = io.BytesIO(), io.BytesIO(), 0
    for number, (name, packed, crc, size) in enumerate(entries):
        sizes = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, crc, len(packed), size, len(name), 0)
        if not number or not is_shared:
            at = body.tell()
            body.write(b"PK\3\4" + sizes + name + packed)
        directory.write(b"PK\1\2\x14\0" + sizes + struct.pack("<HHHII", 0, 0, 0, 0, at) + name)
    count = min(len(entries), 0xFFFF)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, directory.tell(), body.tell(), 0)
    return body.getvalue() + directory.getvalue() + end


def pack(name: bytes, data: bytes) -> tuple[bytes, bytes, int, int]:
    """Return an entry of a zip archive."""
    return name, zlib.compress(data, 9)[2:-4], zlib.crc32(data), len(data)


def make_zip_bomb(head: bytes) -> bytes:
    """Return a zip archive with a file of 1 GiB that begins with `head`."""
    crc = zlib.crc32(head)
    for _ in range(1024):
        crc = zlib.crc32(bytes(MIB), crc)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + deflate_zeros(1024)
    return make_zip([(b"1.png", packed, crc, len(head) + 1024 * MIB)])


def make_zip_of_many(count: int) -> bytes:
    entry = pack(b"", png(64, 64))
    return make_zip([(b"%d.png" % number, *entry[1:]) for number in range(count)])


def make_overlapping_zip(count: int) -> bytes:
    """Return a zip archive in which all names stand for one large picture."""
    entry = pack(b"", png(*LARGE))
    return make_zip([(b"%05d.png" % number, *entry[1:]) for number in range(count)], is_shared=True)


SKIPPING: dict[str, dict[str, str]] = {
    "libx264": {
        "preset": "ultrafast",
        "crf": "51",
        "x264-params": "keyint=infinite:scenecut=0:bframes=0:ref=1:slices=1:no-mbtree=1:rc-lookahead=0",
    },
    "libx265": {
        "preset": "ultrafast",
        "x265-params": "keyint=-1:bframes=0:scenecut=0:log-level=none:rc-lookahead=1",
    },
}
"""Encoder → options for frames that skip everything."""


@cache
def encode_skipped_frames(codec: str, size: tuple[int, int]) -> bytes:
    """Return a black MP4: first a keyframe, and then frames that skip everything."""
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=100, options=SKIPPING[codec])
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((size[1] * 3 // 2, size[0]), np.uint8), "yuv420p")
        for number in range(SKIPPED.stop + 1):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return written.getvalue()


def make_slow_video(
    frames: int, codec: str = "libx264", form: str = "mp4", size: tuple[int, int] = LARGE, key_every: int = 0
) -> bytes:
    """Return a small video of frames that are large, say nothing, and depend on the first one.

    Args:
        frames: number of frames.
        codec: the encoder.
        form: the container.
        size: of a frame, in pixels.
        key_every: frames from a keyframe to the next; 0 if only the first is one.
    """
    written = io.BytesIO()
    encoded = io.BytesIO(encode_skipped_frames(codec, size))
    with av.open(encoded, "r") as source, av.open(written, "w", format=form) as container:
        packets = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        stream: Any = container.add_stream_from_template(source.streams.video[0])
        for number in range(frames):
            place = number % key_every if key_every else number
            data = packets[place if place < SKIPPED.start else SKIPPED[(place - SKIPPED.start) % len(SKIPPED)]]
            packet = Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 100)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, place == 0
            container.mux_one(packet)
    return written.getvalue()


REFUSED: tuple[Answer, ...] = ("limit_exceeded",)
DAMAGED: tuple[Answer, ...] = ("undecodable_media",)
EITHER: tuple[Answer, ...] = ("limit_exceeded", "undecodable_media")
ANY: tuple[Answer, ...] = ("accepted", "limit_exceeded", "undecodable_media")

RECIPES: dict[str, Recipe] = {
    "png_profile_bomb": Recipe(
        "PNG with a colour profile that inflates to 500 MiB",
        "png",
        lambda: png(extra=chunk(b"iCCP", b"a\0\0" + zlib_zeros(500))),
        ANY,
    ),
    "png_text_bomb": Recipe(
        "PNG with a text that inflates to 200 MiB",
        "png",
        lambda: png(extra=chunk(b"zTXt", b"a\0\0" + zlib_zeros(200))),
        ANY,
    ),
    "png_pixels_bomb": Recipe(
        "PNG of 64x64 with pixels that inflate to 500 MiB", "png", lambda: png(pixels=zlib_zeros(500)), ANY
    ),
    "png_huge": Recipe(
        "PNG of 65535x65535 by its header", "png", lambda: png_header(65535, 65535) + bytes(64), REFUSED
    ),
    "png_of_16_bits": Recipe(
        "PNG of 4096x4096 with four 16-bit samples", "png", lambda: png(4096, 4096, depth=16), ("accepted",)
    ),
    "apng_of_20000": Recipe("APNG of 20,000 frames", "png", lambda: make_apng(20_000), ANY),
    "gif_of_1000000": Recipe("GIF of 1,000,000 frames", "gif", lambda: make_gif((16, 16), 1_000_000), REFUSED),
    "gif_of_150000": Recipe("GIF of 150,000 frames", "gif", lambda: make_gif((16, 16), 150_000), ANY),
    "gif_huge": Recipe("GIF of 65535x65535", "gif", lambda: make_gif((65535, 65535), 1), REFUSED),
    "gif_huge_frame": Recipe(
        "GIF of 16x16 with frames of 65535x65535", "gif", lambda: make_gif((16, 16), 3, (65535, 65535)), ANY
    ),
    "webp_huge": Recipe("WebP of 16384x16384 by its header", "webp", lambda: make_webp_header(16384), REFUSED),
    "webp_animation": Recipe("WebP of 5,000 frames of 4096x4096", "webp", lambda: make_webp_animation(4096, 5000), ANY),
    "jpeg_huge": Recipe("JPEG of 65500x65500 by its header", "jpg", lambda: make_jpeg_of_size(65500, 65500), EITHER),
    "jpeg_scans": Recipe(
        "JPEG of 64x64 with 20,000 times all its scans", "jpg", lambda: make_jpeg_of_scans(64, 20_000), ANY
    ),
    "jpeg_large_scans": Recipe(
        "JPEG of 4096x4096 with 300 times all its scans", "jpg", lambda: make_jpeg_of_scans(4096, 300), ANY
    ),
    "mp4_edits": Recipe("MP4 with an edit list of 2,000,000 entries", "mp4", lambda: make_edit_list(2_000_000), EITHER),
    "mp4_sample_sizes": Recipe(
        "MP4 that declares 2^31 samples (stsz)",
        "mp4",
        lambda: spoil_box(b"stsz", struct.pack(">II", 16, 0x7FFFFFF0)),
        EITHER,
    ),
    "mp4_sample_times": Recipe(
        "MP4 that declares 2^31 sample times (stts)",
        "mp4",
        lambda: spoil_box(b"stts", struct.pack(">III", 1, 0x7FFFFFFF, 1)),
        ANY,
    ),
    "mp4_compressed_index": Recipe(
        "MP4 with a compressed index that declares 4 GiB", "mp4", make_compressed_index, EITHER
    ),
    "mp4_deep_boxes": Recipe("MP4 of 20,000 nested boxes", "mp4", lambda: make_deep_boxes(20_000), EITHER),
    "mp4_tracks": Recipe("MP4 of 200,000 tracks", "mp4", lambda: FTYP + box(b"moov", box(b"trak") * 200_000), EITHER),
    "zip_bomb": Recipe("zip with a file of 1 GiB of zeros", "zip", lambda: make_zip_bomb(b""), EITHER),
    "zip_picture_bomb": Recipe(
        "zip with a PNG that inflates to 1 GiB", "zip", lambda: make_zip_bomb(png()[:33]), EITHER
    ),
    "zip_of_100000": Recipe("zip of 100,000 pictures", "zip", lambda: make_zip_of_many(100_000), ANY),
    "zip_overlap": Recipe(
        "zip of 60,000 names for one PNG of 4096x2304", "zip", lambda: make_overlapping_zip(60_000), ANY
    ),
    "slow_mp4": Recipe(
        "MP4 of 60,000 frames of 4096x2304 with one keyframe", "mp4", lambda: make_slow_video(60_000), REFUSED
    ),
    "slow_mkv": Recipe(
        "Matroska of 60,000 frames of 4096x2304 with one keyframe",
        "mkv",
        lambda: make_slow_video(60_000, form="matroska"),
        REFUSED,
    ),
    "slow_hevc": Recipe(
        "HEVC of 60,000 frames of 4096x2304 with one keyframe",
        "mp4",
        lambda: make_slow_video(60_000, "libx265"),
        REFUSED,
    ),
}
