"""Metadata of a movie by named keys: the box `meta` with the handler `mdta` (Apple's QuickTime file format).

FFmpeg shows each as a tag of the file, and ExifTool in the group `Keys`.
"""

import struct
from collections.abc import Mapping

from composition.media.marks.containers.boxes import Box, build_box, find_box, list_boxes
from composition.media.marks.containers.source import MAX_PACKET_BYTES, Malformed, Source

HANDLER = b"mdta"
HANDLER_CONTENT = b"\0" * 8 + HANDLER + b"\0" * 13
UTF8 = 1


def find_metadata(source: Source, parent: Box) -> Box | None:
    """Return the box with the keys directly inside a box; None if there is none. Raises Malformed."""
    for box in list_boxes(source, parent.content, parent.end):
        if box.kind == b"meta" and _has_handler(source, box):
            return box
    return None


def replace_values(source: Source, metadata: Box | None, values: Mapping[str, str]) -> bytes:
    """Return a box with these values, and the others of an existing box. Raises Malformed."""
    existing = () if metadata is None else _list_items(source, metadata)
    new = [(key.encode(), _build_value(value)) for key, value in values.items()]
    items = [(key, item) for key, item in existing if key not in dict(new)] + new
    names = b"".join(build_box(HANDLER, key) for key, _ in items)
    listed = b"".join(
        struct.pack(">II", len(item) + 8, number) + item for number, (_, item) in enumerate(items, start=1)
    )
    return build_box(
        b"meta",
        _read_version(source, metadata)
        + build_box(b"hdlr", HANDLER_CONTENT)
        + build_box(b"keys", struct.pack(">II", 0, len(items)) + names)
        + build_box(b"ilst", listed),
    )


def read_value(source: Source, metadata: Box, key: str) -> str | None:
    """Return the text of a key; None if there is none. Raises Malformed."""
    for name, item in _list_items(source, metadata):
        if name == key.encode() and len(item) >= 16 and item[4:12] == b"data" + struct.pack(">I", UTF8):
            return item[16:].decode(errors="replace")
    return None


def _has_handler(source: Source, metadata: Box) -> bool:
    handler = find_box(source, _skip_version(source, metadata), b"hdlr")
    if handler is None or handler.end - handler.content < 12:
        return False
    return source.read(handler.content + 8, 4) == HANDLER


def _read_version(source: Source, metadata: Box | None) -> bytes:
    """Return the version and flags of a `meta` box, which QuickTime files do not have."""
    if metadata is None:
        return b"\0\0\0\0"
    inner = _skip_version(source, metadata)
    return source.read(metadata.content, inner.content - metadata.content)


def _skip_version(source: Source, metadata: Box) -> Box:
    """Return a `meta` box without its version and flags, which QuickTime files do not have."""
    begin = metadata.content
    is_full = metadata.end - begin >= 12 and source.read(begin + 4, 4) != b"hdlr"
    return Box(metadata.kind, metadata.begin, begin + 4 if is_full else begin, metadata.end)


def _list_items(source: Source, metadata: Box) -> list[tuple[bytes, bytes]]:
    """Return the names and the `data` boxes, as they are in the file."""
    inner = _skip_version(source, metadata)
    keys, listed = find_box(source, inner, b"keys"), find_box(source, inner, b"ilst")
    if keys is None or listed is None:
        return []
    if max(keys.end - keys.content, listed.end - listed.content) > MAX_PACKET_BYTES:
        raise Malformed(f"the metadata has more than {MAX_PACKET_BYTES} bytes")
    names = [source.read(box.content, box.end - box.content) for box in list_boxes(source, keys.content + 8, keys.end)]
    items: list[tuple[bytes, bytes]] = []
    for box in list_boxes(source, listed.content, listed.end):
        number = int.from_bytes(box.kind, "big")
        if 1 <= number <= len(names):
            items.append((names[number - 1], source.read(box.content, box.end - box.content)))
    return items


def _build_value(value: str) -> bytes:
    return build_box(b"data", struct.pack(">II", UTF8, 0) + value.encode())
