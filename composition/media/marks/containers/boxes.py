"""Boxes of ISO base media files (ISO/IEC 14496-12)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from composition.media.marks.containers.source import Malformed, Source

MAX_BOXES = 10_000
"""Maximum number of boxes on one level that are looked at."""


@dataclass(frozen=True)
class Box:
    """A box, and where it is in the file."""

    kind: bytes
    begin: int
    content: int
    """Where its content begins."""
    end: int


def list_boxes(source: Source, begin: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes of the file, or of the content of a box. Raises Malformed."""
    stop = source.size if end is None else end
    for _ in range(MAX_BOXES):
        if begin == stop or _is_terminator(source, begin, stop):
            return
        box = _read_box(source, begin, stop)
        yield box
        begin = box.end
    raise Malformed(f"there are more than {MAX_BOXES} boxes")


def find_box(source: Source, parent: Box, kind: bytes) -> Box | None:
    """Return the first box of a kind inside another; None if there is none. Raises Malformed."""
    return next((box for box in list_boxes(source, parent.content, parent.end) if box.kind == kind), None)


def build_box(kind: bytes, content: bytes) -> bytes:
    """Return a box."""
    return struct.pack(">I4s", len(content) + 8, kind) + content


def _is_terminator(source: Source, begin: int, stop: int) -> bool:
    """Whether the rest is the zero that ends the user data of QuickTime files."""
    return stop - begin == 4 and source.read(begin, 4) == b"\0\0\0\0"


def _read_box(source: Source, begin: int, stop: int) -> Box:
    if begin + 8 > stop:
        raise Malformed("a box is truncated")
    size, kind = struct.unpack(">I4s", source.read(begin, 8))
    content = begin + 8
    if size == 1:
        (size,) = struct.unpack(">Q", source.read(content, 8))
        content += 8
    elif size == 0:
        size = stop - begin
    if begin + size > stop or begin + size < content:
        raise Malformed("the size of a box is wrong")
    return Box(kind, begin, content, begin + size)
