"""Reading the ICC profile and the EXIF orientation of JPEG, PNG and WebP files.

PyAV cannot be asked: it raises ValueError for all side data of a frame if it does not know one kind of it, as EXIF.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_TAG_BYTES = 4 << 20
"""Maximum size of a profile, or of EXIF data. Larger ones are ignored."""
MAX_PARTS = 4096
"""Maximum number of segments or chunks that are read. Tags after them are ignored."""
ORIENTATION_TAG = 0x0112
"""EXIF tag of the orientation."""
MIRRORED_ORIENTATIONS = frozenset({2, 4, 5, 7})
"""EXIF orientations with mirroring."""
JPEG_PROFILE, JPEG_EXIF = b"ICC_PROFILE\0", b"Exif\0\0"
JPEG_START_OF_SCAN, JPEG_END, JPEG_APP1, JPEG_APP2 = 0xDA, 0xD9, 0xE1, 0xE2


@dataclass(frozen=True)
class PictureTags:
    """What a picture file says about its display."""

    profile: bytes | None = None
    """The ICC profile, not checked."""
    orientation: int = 1
    """EXIF orientation, 1 to 8."""

    @property
    def is_mirrored(self) -> bool:
        """Whether the orientation mirrors. FFmpeg reports only the rotation."""
        return self.orientation in MIRRORED_ORIENTATIONS


def read_tags(source: str | bytes, picture_format: str) -> PictureTags:
    """Read the tags of a picture. Damaged ones are ignored, as in browsers.

    Args:
        source: path or content of the file.
        picture_format: FFmpeg's name of the format.
    """
    readers = {"jpeg_pipe": _read_jpeg, "png_pipe": _read_png, "webp_pipe": _read_webp}
    if picture_format not in readers:
        return PictureTags()
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        return readers[picture_format](file)


def _read_jpeg(file: BinaryIO) -> PictureTags:
    parts: dict[int, bytes] = {}
    count, orientation = 0, 1
    for marker, data in _read_segments(file):
        if marker == JPEG_APP1 and data.startswith(JPEG_EXIF):
            orientation = read_orientation(data[len(JPEG_EXIF) :])
        elif marker == JPEG_APP2 and data.startswith(JPEG_PROFILE) and len(data) > 14:
            count = data[13]
            parts[data[12]] = data[14:]
    is_whole = bool(parts) and sorted(parts) == list(range(1, count + 1))
    return PictureTags(b"".join(parts[number] for number in sorted(parts)) if is_whole else None, orientation)


def _read_segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments before the first scan."""
    file.seek(2)
    for _ in range(MAX_PARTS):
        head = file.read(4)
        while head[:2] == b"\xff\xff":  # fill bytes
            head = head[1:] + file.read(1)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (JPEG_START_OF_SCAN, JPEG_END):
            return
        size = int.from_bytes(head[2:], "big") - 2
        if size < 0:
            return
        yield head[1], file.read(size)


def _read_png(file: BinaryIO) -> PictureTags:
    profile, orientation = None, 1
    file.seek(8)
    for _ in range(MAX_PARTS):
        head = file.read(8)
        if len(head) < 8:
            break
        size, kind = struct.unpack(">I4s", head)
        if kind not in (b"iCCP", b"eXIf") or size > MAX_TAG_BYTES:
            file.seek(size + 4, io.SEEK_CUR)
            continue
        data = file.read(size)
        file.seek(4, io.SEEK_CUR)
        if kind == b"iCCP":
            profile = _inflate_profile(data)
        else:
            orientation = read_orientation(data)
    return PictureTags(profile, orientation)


def _inflate_profile(data: bytes) -> bytes | None:
    """Return the profile in an iCCP chunk: a name, a zero, the method 0, and deflated data."""
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(data[data.index(b"\0") + 2 :], MAX_TAG_BYTES)
    except (ValueError, zlib.error):
        return None
    return profile if inflater.eof else None


def _read_webp(file: BinaryIO) -> PictureTags:
    profile, orientation = None, 1
    file.seek(12)
    for _ in range(MAX_PARTS):
        head = file.read(8)
        if len(head) < 8:
            break
        kind, size = struct.unpack("<4sI", head)
        padded = size + size % 2
        if kind not in (b"ICCP", b"EXIF") or size > MAX_TAG_BYTES:
            file.seek(padded, io.SEEK_CUR)
            continue
        data = file.read(padded)[:size]
        if kind == b"ICCP":
            profile = data
        else:
            orientation = read_orientation(data.removeprefix(JPEG_EXIF))
    return PictureTags(profile, orientation)


def read_orientation(tiff: bytes) -> int:
    """Return the orientation in EXIF data, 1 to 8; 1 if there is none."""
    order = ">" if tiff.startswith(b"MM") else "<"
    if len(tiff) < 10:
        return 1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for offset in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, offset)
        if tag == ORIENTATION_TAG:
            return value
    return 1
