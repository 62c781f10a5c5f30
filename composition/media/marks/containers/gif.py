"""XMP in GIF: an application extension before the first picture (XMP specification, part 3).

The packet is not cut into sub-blocks. The bytes of the trailer after it lead a reader that takes the text for
sub-blocks to the end of the extension.
"""

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

SIGNATURES = (b"GIF87a", b"GIF89a")
HEADER_BYTES = 13
EXTENSION, PICTURE, END = 0x21, 0x2C, 0x3B
APPLICATION = 0xFF
NAME = b"XMP DataXMP"
TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
"""The last byte ends the extension."""


@dataclass(frozen=True)
class Block:
    """An extension or a picture."""

    kind: int
    label: int
    """Kind of an extension."""
    begin: int
    end: int


def set_xmp(source: Source, packet: bytes) -> list[Piece]:
    """Return the GIF with this XMP packet instead of any other. Raises Malformed."""
    if b"\0" in packet:
        raise Malformed("XMP in a GIF must not contain a NUL")
    start = _measure_start(source)
    blocks = list(_list_blocks(source, start))
    if not blocks:
        raise Malformed("a GIF has no picture")
    leading = next(
        (place for place, block in enumerate(blocks) if block.label != APPLICATION or block.kind != EXTENSION), 0
    )
    before = [(block.begin, block.end) for block in blocks[:leading] if not _is_xmp(source, block)]
    after = [(block.begin, block.end) for block in blocks[leading:] if not _is_xmp(source, block)]
    extension = bytes([EXTENSION, APPLICATION, len(NAME)]) + NAME + packet + TRAILER
    rest = (blocks[-1].end, source.size)
    return [SIGNATURES[1], *join_parts([(6, start), *before]), extension, *join_parts(after), rest]


def find_xmp(source: Source) -> bytes | None:
    """Return the XMP packet of a GIF; None if there is none. Raises Malformed."""
    for block in _list_blocks(source, _measure_start(source)):
        if _is_xmp(source, block):
            begin = block.begin + 3 + len(NAME)
            return source.read(begin, min(max(0, block.end - len(TRAILER) - begin), MAX_PACKET_BYTES))
    return None


def _measure_start(source: Source) -> int:
    """Return the size of the header with the global colour table."""
    flags = source.read(0, HEADER_BYTES)[10]
    return HEADER_BYTES + _measure_table(flags)


def _measure_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _list_blocks(source: Source, begin: int) -> Iterator[Block]:
    """Yield the blocks up to the end of the GIF."""
    for _ in range(MAX_BLOCKS):
        kind = source.read(begin, 1)[0]
        label = 0
        if kind == END:
            return
        if kind == EXTENSION:
            label = source.read(begin + 1, 1)[0]
            end = _skip_data(source, begin + 2)
        elif kind == PICTURE:
            flags = source.read(begin + 9, 1)[0]
            end = _skip_data(source, begin + 10 + _measure_table(flags) + 1)
        else:
            raise Malformed("an unknown block in a GIF")
        yield Block(kind, label, begin, end)
        begin = end


def _skip_data(source: Source, begin: int) -> int:
    """Return where the sub-blocks from `begin` on end."""
    for _ in range(MAX_BLOCKS):
        size = source.read(begin, 1)[0]
        begin += 1 + size
        if size == 0:
            return begin
    raise Malformed("a GIF has too many sub-blocks")


def _is_xmp(source: Source, block: Block) -> bool:
    return (
        block.kind == EXTENSION
        and block.label == APPLICATION
        and block.end - block.begin > 3 + len(NAME)
        and source.read(block.begin + 3, len(NAME)) == NAME
    )
