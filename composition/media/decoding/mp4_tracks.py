"""What FFmpeg does not tell of the tracks of an MP4 or MOV file: which of them belong to another one."""

import struct
from collections.abc import Iterator
from pathlib import Path

AUXILIARY = b"auxv"
"""Handler of tracks that belong to another one, such as depth and alpha (ISO/IEC 14496-12)."""
MAX_MOOV_BYTES = 64 << 20
"""Maximum size of an index that is searched; enough for days of video."""

Box = tuple[bytes, bytes]


def read_auxiliary_tracks(path: str) -> frozenset[int]:
    """Return the numbers of the auxiliary tracks of an MP4 file; none if its index cannot be found."""
    found: set[int] = set()
    for kind, trak in _list_boxes(_read_moov(path)):
        parts = dict(_list_boxes(trak)) if kind == b"trak" else {}
        header, handler = parts.get(b"tkhd", b""), dict(_list_boxes(parts.get(b"mdia", b""))).get(b"hdlr", b"")
        place = 20 if header[:1] == b"\1" else 12  # of the number: behind version, flags and two times
        if handler[8:12] == AUXILIARY and len(header) >= place + 4:
            found.add(struct.unpack_from(">I", header, place)[0])
    return frozenset(found)


def _read_moov(path: str) -> bytes:
    """Return the content of the box `moov`; empty if there is none."""
    with Path(path).open("rb") as file:
        at = 0
        while len(head := file.read(16)) >= 8:
            size, kind = struct.unpack_from(">I4s", head)
            start = 8
            if size == 1 and len(head) == 16:
                (size,), start = struct.unpack_from(">Q", head, 8), 16
            if kind == b"moov":
                file.seek(at + start)
                return file.read(min(size - start if size else MAX_MOOV_BYTES, MAX_MOOV_BYTES))
            if size < 8:
                break
            at += size
            file.seek(at)
    return b""


def _list_boxes(data: bytes) -> Iterator[Box]:
    """Yield kind and content of the boxes in a box, up to the first damaged one."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size
