"""XMP and metadata by keys in MP4: an `uuid` box beside the index (XMP specification, part 3), and `meta` in `moov`.

The samples are copied as they are. If the index comes before them, their positions in it are moved.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition.media.marks.containers.boxes import Box, build_box, find_box, list_boxes
from composition.media.marks.containers.keys import find_metadata, read_value, replace_values
from composition.media.marks.containers.source import MAX_PACKET_BYTES, Malformed, Piece, Source

XMP_ID = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
MAX_INDEX_BYTES = 256 << 20
"""Maximum size of the index of a file that is marked."""
CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
"""Boxes around the positions of the samples."""
MAX_POSITION = 0xFFFF_FFFF
"""Largest position in `stco`."""


@dataclass(frozen=True)
class Moves:
    """How far each part of the file moves."""

    begins: Sequence[int]
    distances: Sequence[int]

    def move(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the new positions of bytes."""
        parts = np.searchsorted(np.array(self.begins), positions, "right") - 1
        return positions + np.array(self.distances)[parts]


def is_mp4(start: bytes) -> bool:
    """Whether the beginning of a file is that of an MP4, or of a related format."""
    return start[4:8] == b"ftyp"


def set_labels(source: Source, packet: bytes, values: Mapping[str, str]) -> list[Piece]:
    """Return the MP4 with this XMP packet instead of any other, and with these values. Raises Malformed.

    Args:
        source: a progressive MP4.
        packet: the XMP packet.
        values: metadata by key, which is added to what there is.
    """
    boxes = [box for box in list_boxes(source) if not _is_xmp(source, box)]
    moov = _find_index(boxes)
    content = _set_values(source, moov, values) if values else source.read(moov.content, moov.end - moov.content)
    xmp = build_box(b"uuid", XMP_ID + packet)
    still = Moves([0], [0])
    for is_wide in (False, True):
        index = _move_positions(content, still, is_wide=is_wide)  # has its final size
        moves = _plan_moves(boxes, moov, len(index) + 8 + len(xmp))
        try:
            index = _move_positions(content, moves, is_wide=is_wide)
        except OverflowError:
            continue
        return [
            piece
            for box in boxes
            for piece in ([build_box(b"moov", index), xmp] if box is moov else [(box.begin, box.end)])
        ]
    raise AssertionError("64 bits hold every position")


def find_xmp(source: Source) -> bytes | None:
    """Return the XMP packet of an MP4; None if there is none. Raises Malformed."""
    for box in list_boxes(source):
        if _is_xmp(source, box):
            begin = box.content + len(XMP_ID)
            return source.read(begin, min(box.end - begin, MAX_PACKET_BYTES))
    return None


def find_value(source: Source, key: str) -> str | None:
    """Return metadata by key, in `moov` or its `udta`; None if there is none. Raises Malformed."""
    for moov in list_boxes(source):
        if moov.kind != b"moov":
            continue
        for parent in (moov, find_box(source, moov, b"udta")):
            metadata = None if parent is None else find_metadata(source, parent)
            value = None if metadata is None else read_value(source, metadata, key)
            if value is not None:
                return value
    return None


def _is_xmp(source: Source, box: Box) -> bool:
    return (
        box.kind == b"uuid" and box.end - box.content >= len(XMP_ID) and source.read(box.content, len(XMP_ID)) == XMP_ID
    )


def _find_index(boxes: Sequence[Box]) -> Box:
    kinds = [box.kind for box in boxes]
    if kinds.count(b"moov") != 1 or b"moof" in kinds:
        raise Malformed("not a progressive MP4")
    moov = boxes[kinds.index(b"moov")]
    if moov.end - moov.begin > MAX_INDEX_BYTES:
        raise Malformed(f"the index has {moov.end - moov.begin} bytes, more than {MAX_INDEX_BYTES}")
    return moov


def _set_values(source: Source, moov: Box, values: Mapping[str, str]) -> bytes:
    """Return the content of the index with these values: where there are keys, else in the user data, as FFmpeg."""
    users = find_box(source, moov, b"udta")
    for parent in (users, moov):
        metadata = None if parent is None else find_metadata(source, parent)
        if parent is not None and metadata is not None:
            content = _replace_box(source, parent, metadata, replace_values(source, metadata, values))
            return content if parent is moov else _replace_box(source, moov, parent, build_box(b"udta", content))
    added = replace_values(source, None, values)
    if users is None:
        return source.read(moov.content, moov.end - moov.content) + build_box(b"udta", added)
    content = source.read(users.content, users.end - users.content)
    return _replace_box(source, moov, users, build_box(b"udta", content + added))


def _replace_box(source: Source, parent: Box, old: Box, new: bytes) -> bytes:
    """Return the content of `parent` with another box instead of one of its boxes."""
    before = source.read(parent.content, old.begin - parent.content)
    return before + new + source.read(old.end, parent.end - old.end)


def _plan_moves(boxes: Sequence[Box], moov: Box, size: int) -> Moves:
    """Return how far each box moves if the index and the XMP have `size` bytes together."""
    position = 0
    distances: list[int] = []
    for box in boxes:
        distances.append(position - box.begin)
        position += size if box is moov else box.end - box.begin
    return Moves([box.begin for box in boxes], distances)


def _move_positions(content: bytes, moves: Moves, *, is_wide: bool) -> bytes:
    """Return the content of a box with moved positions of samples, in 64 bits each if `is_wide`.

    Raises:
        OverflowError: positions need 64 bits.
        Malformed: the index is damaged.
    """
    parts: list[bytes] = []
    offset = 0
    while offset < len(content):
        if offset + 8 > len(content):
            raise Malformed("the index is damaged")
        size, kind = struct.unpack_from(">I4s", content, offset)
        if size < 8 or offset + size > len(content):
            raise Malformed("the index is damaged")
        inner = content[offset + 8 : offset + size]
        if kind in CONTAINERS:
            parts.append(build_box(kind, _move_positions(inner, moves, is_wide=is_wide)))
        elif kind in (b"stco", b"co64"):
            parts.append(_move_table(kind, inner, moves, is_wide=is_wide))
        else:
            parts.append(content[offset : offset + size])
        offset += size
    return b"".join(parts)


def _move_table(kind: bytes, content: bytes, moves: Moves, *, is_wide: bool) -> bytes:
    """Return the table `stco` or `co64` with moved positions."""
    form = ">u4" if kind == b"stco" else ">i8"
    table = np.frombuffer(content, form, offset=8).astype(np.int64)
    if len(table) != int.from_bytes(content[4:8], "big"):
        raise Malformed("the index is damaged")
    moved = moves.move(table)
    if kind == b"stco" and not is_wide:
        if len(moved) and moved.max() > MAX_POSITION:
            raise OverflowError
        return build_box(b"stco", content[:8] + moved.astype(">u4").tobytes())
    return build_box(b"co64", content[:8] + moved.astype(">i8").tobytes())
