"""Counting the edits of an MP4 or MOV file. FFmpeg compares each of them with each frame when it opens the file."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from services.errors import LimitExceeded

MAX_EDITS = 4096
"""Maximum number of edits in a file: cuts that players make when they show it. Cameras and editors write a few."""
MAX_BOXES = 100_000
"""Maximum number of boxes that are looked at."""
PARENTS = frozenset({b"moov", b"trak", b"edts"})
"""Boxes that lead to the lists of edits."""


def check_edits(path: str) -> None:
    """Raise LimitExceeded if an MP4 file has too many edits. Files of other formats have none."""
    with Path(path).open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        edits = sum(_list_edits(file, 0, end))
    if edits > MAX_EDITS:
        raise LimitExceeded(f"the edit lists of the video have {edits} entries; the limit is {MAX_EDITS}")


def _list_edits(file: BinaryIO, begin: int, end: int) -> Iterator[int]:
    """Yield the number of entries of each list of edits in a part of a file."""
    parts = [(begin, end)]
    for _ in range(MAX_BOXES):
        while parts and parts[-1][0] + 8 > parts[-1][1]:
            parts.pop()
        if not parts:
            return
        at, stop = parts.pop()
        file.seek(at)
        head = file.read(16).ljust(16, b"\0")
        size, kind = struct.unpack_from(">I4s", head)
        start = 8
        if size == 1:
            (size,), start = struct.unpack_from(">Q", head, 8), 16
        size = size or stop - at  # 0: to the end
        if size < start:
            continue
        parts.append((at + size, stop))
        if kind in PARENTS:
            parts.append((at + start, min(at + size, stop)))
        elif kind == b"elst":
            yield struct.unpack_from(">I", head, 12)[0] if start == 8 else MAX_EDITS + 1
