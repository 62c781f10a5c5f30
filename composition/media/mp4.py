"""Reading and changing the boxes of an MP4 initialisation segment (ISO/IEC 14496-12)."""

import struct

PICTURE_SIZE = 24
"""Offset of width and height, 16 bits each, in the content of a visual sample entry."""
AVC_LEVEL = 3
"""Offset of the level in the content of `avcC`."""


def add_duration(head: bytes, duration: int) -> bytes:
    """Add the `mehd` box, which has the duration of all fragments, in units of the movie's time scale."""
    box = struct.pack(">I4sB3xQ", 20, b"mehd", 1, duration)
    moov, mvex = head.index(b"moov") - 4, head.rindex(b"mvex") - 4
    result = bytearray(head)
    for offset in (moov, mvex):
        (size,) = struct.unpack_from(">I", result, offset)
        struct.pack_into(">I", result, offset, size + len(box))
    result[mvex + 8 : mvex + 8] = box
    return bytes(result)


def set_picture_size(head: bytes, width: int, height: int) -> bytes:
    """Set the size in the headers of the only track, in pixels; decoders crop the coded pictures to it."""
    result = bytearray(head)
    _, end = find_box(head, "moov", "trak", "tkhd")
    struct.pack_into(">II", result, end - 8, width << 16, height << 16)
    begin, _ = find_box(head, "moov", "trak", "mdia", "minf", "stbl", "stsd")
    entry = begin + 8 + 8  # after version, flags and count, and after the entry's own size and type
    struct.pack_into(">HH", result, entry + PICTURE_SIZE, width, height)
    return bytes(result)


def read_avc_level(head: bytes) -> int | None:
    """Return ten times the level of H.264, such as 52; None if the video is not H.264."""
    at = head.find(b"avcC")
    return None if at < 0 else head[at + 4 + AVC_LEVEL]


def find_box(data: bytes, *path: str) -> tuple[int, int]:
    """Return where the content of a box begins and ends. Raises ValueError if there is no such box.

    Args:
        data: a whole file, or its beginning.
        path: names of the boxes from the outermost to the one to find.
    """
    begin, end = 0, len(data)
    for name in path:
        offset = begin
        while offset < end:
            size, found = struct.unpack_from(">I4s", data, offset)
            if found == name.encode():
                begin, end = offset + 8, offset + size
                break
            offset += max(8, size)
        else:
            raise ValueError(f"there is no box {name}")
    return begin, end
