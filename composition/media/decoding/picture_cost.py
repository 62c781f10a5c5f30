"""What decoding a picture costs, by its structure: sizes, depth, scans and compressed text. Nothing is decoded here.

A PNG or JPEG of little size on disk and on screen may hold much more: text and profiles that inflate to gigabytes,
more pixel data than the picture has, or thousands of scans.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from composition.media.cost import MIB, SCAN_NS, Cost, FrameForm, estimate_picture
from composition.media.decoding.headers import Header, Limits
from services.errors import LimitExceeded

MAX_TEXT_BYTES = 16 * MIB
"""Maximum size of the inflated profile and texts of a PNG."""
MAX_CHUNKS = 1_000_000
"""Maximum number of chunks of a PNG."""
COMPRESSED = frozenset({b"iCCP", b"zTXt", b"iTXt"})
"""Chunks of a PNG whose content may be compressed."""
PIXEL_DATA = frozenset({b"IDAT", b"fdAT"})
SAMPLES = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}
"""Colour type of a PNG → samples of a decoded pixel (a palette may have alpha)."""
STORED_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type of a PNG → samples of a stored pixel."""
OPAQUE_TYPES = frozenset({0, 2})
SLACK_BYTES = 1 << 16
"""Size by which pixel data may exceed what the picture can need."""
MOST_INFLATED = 1032
"""Largest factor by which deflated data grows."""
INFLATE_NS = 5.0
"""Processor time for a byte of pixel data that is inflated and left out, in nanoseconds, all readings together."""
START_OF_SCAN = b"\xff\xda"
SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG whose segment has the size of the picture."""
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
MAX_SEGMENTS = 65536
PIECE_BYTES = MIB


def estimate_picture_file(source: str | bytes, header: Header, limits: Limits) -> Cost:
    """Return the cost of a picture or of the first frame of an animation. Raises LimitExceeded.

    Args:
        source: path or content of the file.
        header: its header.
        limits: limits on the file; of a picture that does not tell its size the largest is assumed.
    """
    size = measure_source(source)
    if header.picture_format == "png_pipe" or header.animation_format == "apng":
        return _estimate_png(source, size)
    if header.picture_format == "jpeg_pipe":
        return _estimate_jpeg(source, size, limits)
    width, height = header.size or (limits.max_side, -(-limits.max_pixels // limits.max_side))
    return estimate_picture(FrameForm(width, height, 32, "", has_alpha=True), size)


def measure_source(source: str | bytes) -> int:
    """Return the size of a file, given by its path or content, in bytes."""
    return len(source) if isinstance(source, bytes) else Path(source).stat().st_size


def _open_source(source: str | bytes) -> AbstractContextManager[BinaryIO]:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def _estimate_png(source: str | bytes, size: int) -> Cost:
    with _open_source(source) as file:
        file.seek(16)
        head = file.read(13).ljust(13, b"\0")
        width, height, depth, kind = struct.unpack_from(">IIBB", head)
        stored = text = 0
        is_opaque = kind in OPAQUE_TYPES
        file.seek(8)
        for name, length in _list_chunks(file):
            if name in PIXEL_DATA:
                stored += length
            elif name in COMPRESSED:
                text += _inflate_text(name, file.read(min(length, MAX_TEXT_BYTES)), MAX_TEXT_BYTES - text)
            elif name == b"tRNS":
                is_opaque = False
    samples = SAMPLES.get(kind, 4) + (0 if is_opaque or kind not in OPAQUE_TYPES else 1)
    form = FrameForm(width, height, samples * max(8, depth), "png", has_alpha=not is_opaque, is_deep=depth > 8)
    cost = estimate_picture(form, size)
    needed = height * (2 + -(-width * STORED_SAMPLES.get(kind, 4) * depth // 8))
    spare = max(0, stored - needed * 101 // 100 - SLACK_BYTES)
    if not spare:
        return cost
    return replace(
        cost,
        cpu_s=cost.cpu_s + spare * MOST_INFLATED * INFLATE_NS / 1e9,
        reason=f"it has {spare} bytes of pixel data more than {width}x{height} pixels can need",
    )


def _list_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield name and length of the chunks of a PNG; the file is at the content of each. Raises LimitExceeded."""
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length, name = struct.unpack(">I4s", head)
        after = file.tell() + length + 4
        yield name, length
        file.seek(after)
    raise LimitExceeded(f"the PNG has more than {MAX_CHUNKS} chunks")


def _inflate_text(name: bytes, data: bytes, most: int) -> int:
    """Return the inflated size of a profile or a text. Raises LimitExceeded if it is over `most`."""
    rest = data.partition(b"\0")[2]
    is_compressed = name != b"iTXt" or rest[:1] == b"\1"
    rest = rest[1:]  # behind the method
    if name == b"iTXt":
        rest = rest.partition(b"\0")[2].partition(b"\0")[2]  # behind language and translated keyword
    if not is_compressed:
        return len(rest)
    inflater = zlib.decompressobj()
    try:
        size = len(inflater.decompress(rest, most + 1))
    except zlib.error:
        return 0
    if size > most:
        raise LimitExceeded(
            f"the texts and the colour profile of the PNG inflate to more than {MAX_TEXT_BYTES // MIB} MiB, which is "
            "the limit"
        )
    return size


def _estimate_jpeg(source: str | bytes, size: int, limits: Limits) -> Cost:
    width, height = limits.max_side, -(-limits.max_pixels // limits.max_side)
    components, is_progressive = 4, True
    with _open_source(source) as file:
        for marker, data in _list_segments(file):
            if marker in SIZE_MARKERS and len(data) >= 6:
                height, width, components = struct.unpack_from(">HHB", data, 1)
                is_progressive = marker in PROGRESSIVE
                break
        file.seek(0)
        scans = _count_scans(file)
    if width and height:
        limits.check_size(width, height)
    bits = 8 * components * (3 if is_progressive else 1)  # coefficients have 16 bits
    cost = estimate_picture(FrameForm(width, height, bits, "mjpeg"), size)
    cpu_s = cost.cpu_s + scans * width * height * SCAN_NS / 1e9
    return replace(cost, cpu_s=cpu_s, reason=f"{scans:,} scans of {width}x{height}")


def _list_segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield marker and the first bytes of the segments of a JPEG before its first scan."""
    file.seek(2)
    for _ in range(MAX_SEGMENTS):
        head = file.read(4)
        while head[:2] == b"\xff\xff":  # fill bytes
            head = head[1:] + file.read(1)
        length = int.from_bytes(head[2:], "big") - 2
        if len(head) < 4 or head[0] != 0xFF or head[:2] == START_OF_SCAN or length < 0:
            return
        after = file.tell() + length
        yield head[1], file.read(min(length, 16))
        file.seek(after)


def _count_scans(file: BinaryIO) -> int:
    """Return the number of scans. Inside of a scan, the byte 255 is never followed by another marker's."""
    count, last = 0, b""
    while piece := file.read(PIECE_BYTES):
        count += (last + piece).count(START_OF_SCAN)
        last = piece[-1:]
    return count
