"""Reading the labels of any file. Time and memory are bounded; run it in a decoder process: the file may be hostile."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from composition.media.marks import aigc, xmp
from composition.media.marks.containers import gif, jpeg, mp4, png, webp
from composition.media.marks.containers.source import MAX_PACKET_BYTES, Malformed, Source
from composition.media.marks.vocabulary import MarkedFormat

MAX_SCANNED_BYTES = 64 << 20
"""Maximum size of the part of a file that is searched for an XMP packet, if its format is not known here."""
START_BYTES = 16

READERS: Mapping[MarkedFormat, Callable[[Source], bytes | None]] = {
    "png": png.find_xmp,
    "jpeg": jpeg.find_xmp,
    "webp": webp.find_xmp,
    "gif": gif.find_xmp,
    "mp4": mp4.find_xmp,
}


FIELDS: Mapping[str, str] = {
    "source_type": xmp.SOURCE_TYPE,
    "provider": xmp.PROVIDER,
    "system": xmp.SYSTEM,
    "system_version": xmp.SYSTEM_VERSION,
    "created_at": xmp.CREATED_AT,
    "content_id": xmp.CONTENT_ID,
    "prompt": xmp.PROMPT,
}
"""Field of `composition.media.marks.report.MarkedLabels` → property of XMP."""


def read_labels(path: Path) -> dict[str, Any]:
    """Return the fields of `composition.media.marks.report.MarkedLabels` that a file of any kind states.

    Of a file that is damaged or not known here, these are the labels that can be found.

    Time and memory are bounded, but run it in a decoder process: the file may be hostile.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        source = Source(cast("BinaryIO", file))
        form = _recognise_format(source.read_start(START_BYTES))
        properties = xmp.parse_packet(_find_packet(source, form) or b"")
        text = properties.get(xmp.AIGC)
        if text is None and form == "mp4":
            with contextlib.suppress(Malformed):
                text = mp4.find_value(source, aigc.KEY)
    label = None if text is None else aigc.parse_label(text)
    labels: dict[str, Any] = {name: properties[key] for name, key in FIELDS.items() if key in properties}
    return labels if label is None else {**labels, "aigc": label}


def _recognise_format(start: bytes) -> MarkedFormat | None:
    """Return the format of a file by its first bytes; None if it is not known here."""
    if start.startswith(png.SIGNATURE):
        return "png"
    if start.startswith(jpeg.SIGNATURE):
        return "jpeg"
    if start.startswith(gif.SIGNATURES):
        return "gif"
    if webp.is_webp(start):
        return "webp"
    return "mp4" if mp4.is_mp4(start) else None


def _find_packet(source: Source, form: MarkedFormat | None) -> bytes | None:
    """Return the XMP packet where the format has it, else by searching the file for one."""
    if form is not None:
        with contextlib.suppress(Malformed):
            packet = READERS[form](source)
            if packet is not None or form != "mp4":
                return packet
    return _scan_packet(source)


def _scan_packet(source: Source) -> bytes | None:
    """Return the first XMP packet in a file whose format is not known, as HEIC, AVIF and TIFF have it."""
    size = min(source.size, MAX_SCANNED_BYTES)
    for begin in range(0, size, MAX_PACKET_BYTES):
        window = source.read(begin, min(2 * MAX_PACKET_BYTES, size - begin))
        first = window.find(b"<x:xmpmeta")
        last = window.find(b"</x:xmpmeta>", first)
        if 0 <= first < last:
            return window[first : last + len(b"</x:xmpmeta>")]
    return None
