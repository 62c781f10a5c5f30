"""Reading the index (the box `moov`) of an MP4 or MOV file for what FFmpeg does not tell. Damaged boxes end a list."""

import struct
from collections.abc import Iterator
from pathlib import Path

MAX_INDEX_BYTES = 64 << 20
"""Maximum size of an index that is read; enough for days of video."""
MAX_BOXES = 100_000
"""Maximum number of boxes of the file that are skipped to find it."""


def read_index(path: str) -> memoryview:
    """Return the content of the box `moov`; empty if there is none."""
    with Path(path).open("rb") as file:
        at = 0
        for _ in range(MAX_BOXES):
            if len(head := file.read(16)) < 8:
                break
            kind, start, size = _parse_head(head)
            if kind == b"moov":
                file.seek(at + start)
                return memoryview(file.read(min(size - start if size else MAX_INDEX_BYTES, MAX_INDEX_BYTES)))
            if size < start:
                break
            at += size
            file.seek(at)
    return memoryview(b"")


def list_boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and content of the boxes in a box."""
    at = 0
    while at + 8 <= len(data):
        kind, start, size = _parse_head(data[at : at + 16])
        size = size or len(data) - at
        if size < start:
            return
        yield kind, data[at + start : at + size]
        at += size


def find_boxes(data: memoryview, first: bytes, *path: bytes) -> Iterator[memoryview]:
    """Yield the content of each box that a path leads to, e.g. of the lists of edits of all tracks.

    Args:
        data: the content of a box.
        first: kind of the outermost boxes.
        path: kinds of the boxes in them, down to those that are wanted.
    """
    for kind, content in list_boxes(data):
        if kind == first:
            yield from find_boxes(content, *path) if path else (content,)


def _parse_head(head: bytes | memoryview) -> tuple[bytes, int, int]:
    """Return the kind of a box, where its content begins, and its size; 0 if it goes on to the end."""
    size, kind = struct.unpack_from(">I4s", head)
    if size == 1 and len(head) == 16:
        return kind, 16, struct.unpack_from(">Q", head, 8)[0]
    return kind, 8, size
