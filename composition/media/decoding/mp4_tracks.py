"""What FFmpeg does not tell of the tracks of an MP4 or MOV file: which of them belong to another one."""

import struct

from composition.media.decoding.mp4_index import find_boxes, list_boxes, read_index

AUXILIARY = b"auxv"
"""Handler of tracks that belong to another one, such as depth and alpha (ISO/IEC 14496-12)."""


def read_auxiliary_tracks(path: str) -> frozenset[int]:
    """Return the numbers of the auxiliary tracks of an MP4 file; none if its index cannot be found."""
    found: set[int] = set()
    for track in find_boxes(read_index(path), b"trak"):
        header = dict(list_boxes(track)).get(b"tkhd", b"")
        handler = next(find_boxes(track, b"mdia", b"hdlr"), b"")
        place = 20 if header[:1] == b"\1" else 12  # of the number: behind version, flags and two times
        if handler[8:12] == AUXILIARY and len(header) >= place + 4:
            found.add(struct.unpack_from(">I", header, place)[0])
    return frozenset(found)
