"""Reading the first bytes of a file before FFmpeg opens it, and the limits that it must keep."""

import codecs
import struct
from dataclasses import dataclass

from services.errors import LimitExceeded, UndecodableMedia

HEAD_BYTES = 1 << 16
"""Bytes read from the beginning of a file."""
ZIP_SIGNATURES = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
"""First bytes of a zip archive: with files, empty, and split."""


@dataclass(frozen=True)
class Limits:
    """`composition.media.limits.MediaLimits` without pydantic, whose import would double a decoder's start time."""

    max_pixels: int
    max_side: int
    min_side: int
    max_frames: int
    max_duration_s: float
    deadline_s: float
    memory_bytes: int
    background: str

    def check_size(self, width: int, height: int) -> None:
        """Raise LimitExceeded unless a size in pixels is within the limits."""
        size = f"the size is {width}x{height} pixels"
        if max(width, height) > self.max_side:
            raise LimitExceeded(f"{size}; the limit for a side is {self.max_side} (max_side)")
        if min(width, height) < self.min_side:
            raise LimitExceeded(f"{size}; the minimum for a side is {self.min_side} (min_side)")
        if width * height > self.max_pixels:
            raise LimitExceeded(f"{size}, {width * height} in total; the limit is {self.max_pixels} (max_pixels)")

    def check_length(self, frames: int, duration_s: float, source: str) -> None:
        """Raise LimitExceeded unless the length is within the limits. The message has `source` after the number."""
        if frames > self.max_frames:
            raise LimitExceeded(f"the video has {frames} frames {source}; the limit is {self.max_frames} (max_frames)")
        if duration_s > self.max_duration_s:
            raise LimitExceeded(
                f"the duration is {duration_s:.1f} s {source}; the limit is {self.max_duration_s:g} s (max_duration_s)"
            )


@dataclass(frozen=True)
class Header:
    """Properties read from the first bytes of a file."""

    size: tuple[int, int] | None = None
    """Width and height in pixels, for formats whose size FFmpeg reports only after decoding."""
    picture_format: str | None = None
    """FFmpeg's name of the picture format; None for videos, and for GIF, which may be one."""


def read_header(head: bytes) -> Header:
    """Read the first bytes of a file. Raises UndecodableMedia for an animated WebP."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack(">II", head[16:24].ljust(8, b"\0"))
        return Header((width, height), "png_pipe")
    if is_gif(head):
        width, height = struct.unpack("<HH", head[6:10].ljust(4, b"\0"))
        return Header((width, height))
    if head.startswith(b"\xff\xd8\xff"):
        return Header(None, "jpeg_pipe")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if b"ANIM" in head[:64]:
            raise UndecodableMedia("animated WebP is not supported; send it as MP4 or GIF")
        return Header(_read_webp_size(head.ljust(30, b"\0")), "webp_pipe")
    return Header()


def _read_webp_size(head: bytes) -> tuple[int, int]:
    """Return width and height in pixels (RFC 9649)."""
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def is_gif(head: bytes) -> bool:
    return head.startswith(b"GIF8")


def is_zip(head: bytes) -> bool:
    return head.startswith(ZIP_SIGNATURES)


def explain_unreadable(head: bytes) -> str:
    """Explain, from the first bytes of a file, why FFmpeg cannot open it."""
    if not head:
        return "the file is empty"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return "the MP4 index (moov box) is missing or damaged: the file is truncated or was never finished"
    if _is_text(head):
        return "the file is text, not a video or picture"
    return "the format must be one of MP4, MOV, WebM, MKV, AVI, TS, PNG, JPEG, WebP, GIF, zip; the file is none of them"


def explain_not_a_picture(head: bytes) -> str:
    """Explain, from the first bytes of a file, why it is no picture."""
    if not head:
        return "the file is empty"
    if _is_text(head):
        return "the file is text, not a picture"
    return "the format must be one of PNG, JPEG, WebP, still GIF; the file is none of them"


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
