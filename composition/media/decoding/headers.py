"""What is known of a file before FFmpeg opens it: what its first bytes say, and the limits it must keep."""

import codecs
import struct
from dataclasses import dataclass

from services.errors import LimitExceeded, UndecodableMedia

HEAD_BYTES = 1 << 16
"""Bytes that are looked at."""
MIRRORED_ORIENTATIONS = frozenset({2, 4, 5, 7})
"""The EXIF orientations that mirror."""
ORIENTATION_TAG = 0x0112
"""The EXIF tag."""
ZIP_SIGNATURES = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
"""How a zip archive begins: one with files, an empty one, one of several parts."""


@dataclass(frozen=True)
class Limits:
    """`composition.media.decode.MediaLimits` without pydantic, whose import would double the start of a worker."""

    max_pixels: int
    max_side: int
    min_side: int
    max_frames: int
    max_duration_s: float
    deadline_s: float
    memory_bytes: int

    def check_size(self, width: int, height: int) -> None:
        """Raises LimitExceeded. Pixels."""
        size = f"its size is {width}x{height} pixels"
        if max(width, height) > self.max_side:
            raise LimitExceeded(f"{size}; no side may have more than {self.max_side} (max_side)")
        if min(width, height) < self.min_side:
            raise LimitExceeded(f"{size}; no side may have less than {self.min_side} (min_side)")
        if width * height > self.max_pixels:
            raise LimitExceeded(f"{size}, {width * height} in all; the limit is {self.max_pixels} (max_pixels)")

    def check_length(self, frames: int, duration_s: float, source: str) -> None:
        """Raises LimitExceeded. `source` says where the numbers are from."""
        if frames > self.max_frames:
            raise LimitExceeded(f"it has {frames} frames {source}; the limit is {self.max_frames} (max_frames)")
        if duration_s > self.max_duration_s:
            raise LimitExceeded(
                f"its duration is {duration_s:.1f} s {source}; the limit is {self.max_duration_s:g} s (max_duration_s)"
            )


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say, as far as it must be known before FFmpeg sees them."""

    size: tuple[int, int] | None = None
    """Width and height in pixels, where FFmpeg would decode first and tell then."""
    picture_format: str | None = None
    """FFmpeg's name for the format, if it is a picture. A GIF may be a video."""
    is_mirrored: bool = False
    """Whether EXIF says so. FFmpeg tells of the rotation, and not of this."""


def read_header(head: bytes) -> Header:
    """Raises UndecodableMedia for an animated WebP."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack(">II", head[16:24].ljust(8, b"\0"))
        return Header((width, height), "png_pipe")
    if is_gif(head):
        width, height = struct.unpack("<HH", head[6:10].ljust(4, b"\0"))
        return Header((width, height))
    if head.startswith(b"\xff\xd8\xff"):
        return Header(None, "jpeg_pipe", _read_exif_orientation(head) in MIRRORED_ORIENTATIONS)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if b"ANIM" in head[:64]:
            raise UndecodableMedia("it is an animated WebP; send it as MP4 or GIF")
        return Header(_read_webp_size(head.ljust(30, b"\0")), "webp_pipe")
    return Header()


def _read_webp_size(head: bytes) -> tuple[int, int]:
    """Width and height in pixels (RFC 9649)."""
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _read_exif_orientation(head: bytes) -> int:
    """1 to 8, as EXIF counts them; 1 where nothing is said."""
    mark = head.find(b"Exif\0\0")
    tiff = head[mark + 6 :] if mark >= 0 else b""
    order = ">" if tiff.startswith(b"MM") else "<"
    if len(tiff) < 10:
        return 1
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(order + "H", tiff, directory)
    for place in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, place)
        if tag == ORIENTATION_TAG:
            return value
    return 1


def is_gif(head: bytes) -> bool:
    return head.startswith(b"GIF8")


def is_zip(head: bytes) -> bool:
    return head.startswith(ZIP_SIGNATURES)


def explain_unreadable(head: bytes) -> str:
    """Why FFmpeg found nothing in the file, as far as its first bytes tell."""
    if not head:
        return "it is empty"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return "it is an MP4 whose index (the moov box) is missing or broken: it was cut off or never finished"
    if _is_text(head):
        return "it is text, not a video or a picture"
    return "it is not a video or a picture in a known format (MP4, MOV, WebM, MKV, AVI, TS, PNG, JPEG, WebP, GIF, zip)"


def explain_not_a_picture(head: bytes) -> str:
    """Why a file among pictures is none, as far as its first bytes tell."""
    if not head:
        return "it is empty"
    if _is_text(head):
        return "it is text, not a picture"
    return "it is not a picture in a known format (PNG, JPEG, WebP, still GIF)"


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
