"""XMP in PNG: an `iTXt` chunk with the keyword `XML:com.adobe.xmp`, directly after the header (ISO/IEC 15948)."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from composition.media.marks.containers.source import (
    MAX_BLOCKS,
    MAX_PACKET_BYTES,
    Malformed,
    Piece,
    Source,
    join_parts,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"XML:com.adobe.xmp\0"
FRAME_BYTES = 12
"""Size of a chunk without its content: length, type, checksum."""


@dataclass(frozen=True)
class Chunk:
    """A chunk of a PNG."""

    kind: bytes
    begin: int
    end: int


def set_xmp(source: Source, packet: bytes) -> list[Piece]:
    """Return the PNG with this XMP packet instead of any other. Raises Malformed."""
    chunks = list(_list_chunks(source))
    if not chunks or chunks[0].kind != b"IHDR" or chunks[-1].kind != b"IEND":
        raise Malformed("not a complete PNG")
    kept = join_parts((chunk.begin, chunk.end) for chunk in chunks[1:] if not _is_xmp(source, chunk))
    rest = (chunks[-1].end, source.size)
    content = KEYWORD + b"\0\0\0\0" + packet  # not compressed, no language, no translated keyword
    return [(0, chunks[0].end), _build_chunk(b"iTXt", content), *kept, rest]


def find_xmp(source: Source) -> bytes | None:
    """Return the first XMP packet of a PNG; None if there is none. Raises Malformed."""
    for chunk in _list_chunks(source):
        if _is_xmp(source, chunk):
            size = min(chunk.end - chunk.begin - FRAME_BYTES, MAX_PACKET_BYTES)
            return _read_text(source.read(chunk.begin + 8, size))
    return None


def _list_chunks(source: Source) -> Iterator[Chunk]:
    """Yield the chunks up to `IEND`."""
    begin = len(SIGNATURE)
    for _ in range(MAX_BLOCKS):
        if begin + FRAME_BYTES > source.size:
            return
        length, kind = struct.unpack(">I4s", source.read(begin, 8))
        end = begin + FRAME_BYTES + length
        if end > source.size:
            raise Malformed("a PNG chunk is truncated")
        yield Chunk(kind, begin, end)
        if kind == b"IEND":
            return
        begin = end


def _is_xmp(source: Source, chunk: Chunk) -> bool:
    is_long = chunk.end - chunk.begin >= FRAME_BYTES + len(KEYWORD) + 4
    return chunk.kind == b"iTXt" and is_long and source.read(chunk.begin + 8, len(KEYWORD)) == KEYWORD


def _read_text(content: bytes) -> bytes | None:
    """Return the text of an `iTXt` chunk; None if it is damaged or larger than MAX_PACKET_BYTES."""
    is_compressed = content[len(KEYWORD)] == 1
    fields = content[len(KEYWORD) + 2 :].split(b"\0", 2)
    if len(fields) < 3:
        return None
    if not is_compressed:
        return fields[2]
    try:
        return zlib.decompressobj().decompress(fields[2], MAX_PACKET_BYTES)
    except zlib.error:
        return None


def _build_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
