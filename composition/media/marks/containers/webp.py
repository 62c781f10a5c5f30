"""XMP in WebP: an `XMP ` chunk after the picture, announced in the `VP8X` header (RFC 9649)."""

import struct
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

XMP_FLAG, ALPHA_FLAG = 0x04, 0x10
LOSSLESS_SIGNATURE = 0x2F
KEYFRAME_CODE = b"\x9d\x01\x2a"
MAX_BYTES = 0xFFFF_FFFE


@dataclass(frozen=True)
class Chunk:
    """A chunk of a WebP, including its padding."""

    kind: bytes
    begin: int
    end: int
    length: int
    """Size of the content."""


def is_webp(start: bytes) -> bool:
    """Whether the beginning of a file is that of a WebP."""
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"


def set_xmp(source: Source, packet: bytes) -> list[Piece]:
    """Return the WebP with this XMP packet instead of any other. Raises Malformed.

    A simple file becomes an extended one: a header with its size and transparency is put before the picture.
    """
    chunks = list(_list_chunks(source))
    if not chunks:
        raise Malformed("not a complete WebP")
    pictures = [chunk for chunk in chunks if chunk.kind not in (b"XMP ", b"VP8X")]
    parts = join_parts((chunk.begin, chunk.end) for chunk in pictures)
    middle: list[Piece] = [_build_header(source, chunks[0]), *parts, _build_chunk(b"XMP ", packet)]
    size = 4 + sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in middle)
    if size > MAX_BYTES:
        raise Malformed(f"a WebP has at most {MAX_BYTES} bytes, got {size}")
    return [struct.pack("<4sI4s", b"RIFF", size, b"WEBP"), *middle]


def find_xmp(source: Source) -> bytes | None:
    """Return the XMP packet of a WebP; None if there is none. Raises Malformed."""
    for chunk in _list_chunks(source):
        if chunk.kind == b"XMP ":
            return source.read(chunk.begin + 8, min(chunk.length, MAX_PACKET_BYTES))
    return None


def _list_chunks(source: Source) -> Iterator[Chunk]:
    (size,) = struct.unpack("<I", source.read(4, 4))
    begin, stop = 12, min(8 + size, source.size)
    for _ in range(MAX_BLOCKS):
        if begin + 8 > stop:
            return
        kind, length = struct.unpack("<4sI", source.read(begin, 8))
        end = begin + 8 + length + length % 2
        if begin + 8 + length > source.size:
            raise Malformed("a WebP chunk is truncated")
        yield Chunk(kind, begin, min(end, source.size), length)
        begin = end


def _build_header(source: Source, first: Chunk) -> bytes:
    """Return the `VP8X` chunk of a file, with the flag of XMP."""
    if first.kind == b"VP8X":
        content = source.read(first.begin + 8, 10)
        return _build_chunk(b"VP8X", bytes([content[0] | XMP_FLAG]) + content[1:])
    if first.kind == b"VP8 ":
        width, height, has_alpha = *_read_lossy_size(source.read(first.begin + 8, 10)), False
    elif first.kind == b"VP8L":
        width, height, has_alpha = _read_lossless_header(source.read(first.begin + 8, 5))
    else:
        raise Malformed("a WebP begins with no picture")
    flags = XMP_FLAG | (ALPHA_FLAG if has_alpha else 0)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return _build_chunk(b"VP8X", struct.pack("<I", flags) + size)


def _read_lossy_size(content: bytes) -> tuple[int, int]:
    """Return width and height in the header of a VP8 key frame."""
    if content[3:6] != KEYFRAME_CODE:
        raise Malformed("a lossy WebP has no key frame")
    width, height = struct.unpack("<HH", content[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _read_lossless_header(content: bytes) -> tuple[int, int, bool]:
    """Return width, height and whether there is transparency in the header of VP8L."""
    if content[0] != LOSSLESS_SIGNATURE:
        raise Malformed("a lossless WebP has no signature")
    bits = int.from_bytes(content[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)


def _build_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
