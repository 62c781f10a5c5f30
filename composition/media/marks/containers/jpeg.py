"""XMP in JPEG: an APP1 segment after JFIF's APP0 and Exif's APP1 (XMP specification, part 3)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from composition.media.marks.containers.source import MAX_BLOCKS, Malformed, Piece, Source, join_parts

SIGNATURE = b"\xff\xd8\xff"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
EXIF = b"Exif\0"
APP0, APP1, SOS, EOI = 0xE0, 0xE1, 0xDA, 0xD9
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without content: TEM, RSTn, SOI."""
MAX_CONTENT = 0xFFFF - 2


@dataclass(frozen=True)
class Segment:
    """A segment of the header."""

    marker: int
    begin: int
    end: int


def set_xmp(source: Source, packet: bytes) -> list[Piece]:
    """Return the JPEG with this XMP packet instead of any other. Raises Malformed, also if the packet is too large."""
    content = XMP + packet
    if len(content) > MAX_CONTENT:
        raise Malformed(f"a JPEG holds at most {MAX_CONTENT - len(XMP)} bytes of XMP, got {len(packet)}")
    segments = list(_list_segments(source))
    first = next((place for place, item in enumerate(segments) if not _is_leading(source, item)), len(segments))
    if not segments or segments[-1].marker != SOS:
        raise Malformed("not a complete JPEG")
    begin = segments[first].begin
    kept = join_parts((item.begin, item.end) for item in segments[first:] if not _is_xmp(source, item))
    return [
        (0, begin),
        struct.pack(">BBH", 0xFF, APP1, len(content) + 2) + content,
        *kept,
        (segments[-1].end, source.size),
    ]


def find_xmp(source: Source) -> bytes | None:
    """Return the main XMP packet of a JPEG; None if there is none. Raises Malformed."""
    for segment in _list_segments(source):
        if segment.marker == APP1 and _starts_with(source, segment, XMP):
            begin = segment.begin + 4 + len(XMP)
            return source.read(begin, segment.end - begin)
    return None


def _list_segments(source: Source) -> Iterator[Segment]:
    """Yield the segments of the header, up to the first start of scan."""
    begin = 2
    for _ in range(MAX_BLOCKS):
        prefix, marker = source.read(begin, 2)
        if prefix != 0xFF:
            raise Malformed("not a JPEG segment")
        if marker == 0xFF:  # a fill byte
            begin += 1
            continue
        if marker == EOI:
            return
        if marker in WITHOUT_LENGTH:
            begin += 2
            continue
        (length,) = struct.unpack(">H", source.read(begin + 2, 2))
        end = begin + 2 + length
        if length < 2 or end > source.size:
            raise Malformed("a JPEG segment is truncated")
        yield Segment(marker, begin, end)
        if marker == SOS:
            return
        begin = end


def _is_leading(source: Source, segment: Segment) -> bool:
    """Whether a segment comes before XMP."""
    return segment.marker == APP0 or (segment.marker == APP1 and _starts_with(source, segment, EXIF))


def _is_xmp(source: Source, segment: Segment) -> bool:
    return segment.marker == APP1 and any(_starts_with(source, segment, name) for name in (XMP, EXTENDED_XMP))


def _starts_with(source: Source, segment: Segment, name: bytes) -> bool:
    content = segment.begin + 4
    return segment.end - content >= len(name) and source.read(content, len(name)) == name
