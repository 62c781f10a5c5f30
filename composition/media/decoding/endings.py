"""Whether a file ends in the middle of something: a recording that was cut off, or a transfer that was."""

import io
import struct
from pathlib import Path
from typing import BinaryIO

from composition.media.decoding.frame_index import MATROSKA, MOV, TS

MP4_BOXES = frozenset(
    {b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"mfra", b"sidx", b"styp", b"uuid"}
)
"""Boxes of an MP4 file. What follows the last one and is none of them does not belong to the video."""
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
"""Elements of Matroska whose size may be unknown; then their content follows."""
MAX_PARTS = 1_000_000
"""Maximum number of boxes or elements that are looked at."""
TS_PACKETS = (188, 192, 204)
"""Sizes of a packet in an MPEG transport stream."""
GIF_END = b"\0;"
"""End of the last block of a GIF, and its trailer."""
TAIL_BYTES = 64
"""Size of the end of a file in which they are searched for, because some programs append a few bytes."""


def is_cut(path: str, form: str) -> bool:
    """Whether a file ends in the middle of a box, an element or a packet. False for formats without such parts.

    Args:
        path: of the file.
        form: FFmpeg's name of the format.
    """
    finder = {MOV: _is_mp4_cut, MATROSKA: _is_matroska_cut, TS: _is_ts_cut, "gif": _is_gif_cut, "avi": _is_avi_cut}.get(
        form
    )
    if finder is None:
        return False
    with Path(path).open("rb") as file:
        return finder(file, file.seek(0, io.SEEK_END))


def _is_mp4_cut(file: BinaryIO, length: int) -> bool:
    at = 0
    for _ in range(MAX_PARTS):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or head[4:8] not in MP4_BOXES:
            return False
        (size,) = struct.unpack_from(">I", head)
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack_from(">Q", head, 8)
        if size < 8:  # 0: to the end of the file
            return False
        at += size
        if at >= length:
            return at > length
    return False


def _is_matroska_cut(file: BinaryIO, length: int) -> bool:
    at = 0
    for _ in range(MAX_PARTS):
        file.seek(at)
        head = file.read(16)
        if not head:
            return False
        name = _measure_number(head)
        width = _measure_number(head[name:])
        if not width or name > 4:
            return len(head) < 12  # an element whose size is missing, or damage
        kind = int.from_bytes(head[:name], "big")
        size = int.from_bytes(head[name : name + width], "big") & ((1 << 7 * width) - 1)
        at += name + width
        is_unknown = size == (1 << 7 * width) - 1
        if kind not in (SEGMENT, CLUSTER) or not is_unknown:
            if at + size > length:
                return True
            at += 0 if kind == SEGMENT else size
    return False


def _measure_number(data: bytes) -> int:
    """Return the number of bytes of the number of variable length that `data` begins with; 0 if it is not complete."""
    width = 9 - data[0].bit_length() if data else 0
    return width if 0 < width <= min(8, len(data)) else 0


def _is_ts_cut(file: BinaryIO, length: int) -> bool:
    return all(length % size for size in TS_PACKETS)


def _is_avi_cut(file: BinaryIO, length: int) -> bool:
    at = 0
    for _ in range(MAX_PARTS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            return False
        at += 8 + int.from_bytes(head[4:], "little")
        if at > length:
            return True
    return False


def _is_gif_cut(file: BinaryIO, length: int) -> bool:
    file.seek(max(0, length - TAIL_BYTES))
    return GIF_END not in file.read()
