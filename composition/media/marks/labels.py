"""Labels: marks in the metadata of a file that are not signed, IPTC's in XMP and the implicit label `AIGC`."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Literal, cast

from composition.media.marks import aigc, xmp
from composition.media.marks.containers import gif, jpeg, mp4, png, webp
from composition.media.marks.containers.source import MAX_PACKET_BYTES, Malformed, Piece, Source
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings
from services.errors import ModelFailed, StorageFailed

SYSTEM = "reelgraph"
"""Name of the system that makes the files."""
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = SOURCE_TYPES + "trainedAlgorithmicMedia"
COMPOSITE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
MAX_PROMPT_BYTES = 16_000
"""Maximum size of all prompts together in XMP; longer ones are left out, because the packet must fit into a JPEG."""
MAX_SCANNED_BYTES = 64 << 20
"""Maximum size of the part of a file that is searched for an XMP packet, if its format is not known here."""
START_BYTES = 16

MarkedFormat = Literal["mp4", "png", "jpeg", "webp", "gif"]
"""Formats that can be marked."""
PictureFormat = Literal["png", "jpeg", "webp", "gif"]
WRITERS: Mapping[PictureFormat, Callable[[Source, bytes], list[Piece]]] = {
    "png": png.set_xmp,
    "jpeg": jpeg.set_xmp,
    "webp": webp.set_xmp,
    "gif": gif.set_xmp,
}
READERS: Mapping[MarkedFormat, Callable[[Source], bytes | None]] = {
    "png": png.find_xmp,
    "jpeg": jpeg.find_xmp,
    "webp": webp.find_xmp,
    "gif": gif.find_xmp,
    "mp4": mp4.find_xmp,
}


@dataclass(frozen=True)
class Labels:
    """The labels of a file. None is not stated. Nobody signs them: anybody may have written or changed them."""

    source_type: str | None = None
    """IPTC's digital source type, an IRI."""
    provider: str | None = None
    system: str | None = None
    system_version: str | None = None
    created_at: str | None = None
    """Time in the form of ISO 8601, as it is written in the file."""
    content_id: str | None = None
    prompt: str | None = None
    aigc: Mapping[str, str] | None = None
    """Fields of the implicit label of GB 45438-2025."""


def choose_source_type(provenance: Provenance) -> str:
    """Return IPTC's digital source type of a generated file."""
    return COMPOSITE if provenance.is_composite else GENERATED


def read_system_version() -> str:
    """Return the version of the system."""
    return version("reelgraph")


def add_labels(path: Path, form: MarkedFormat, settings: MarksSettings, provenance: Provenance) -> None:
    """Write the labels into a finished file instead of those it has. Pixels and samples are not touched.

    The file is replaced atomically; memory holds only a small part of it. Blocks. Does nothing if both labels are off.

    Raises:
        StorageFailed: the file cannot be read or written.
        ModelFailed: the file is not of this format.
    """
    if not (settings.source_type or settings.aigc):
        return
    packet = xmp.build_packet(_list_properties(settings, provenance))
    try:
        with Source(path) as source:
            if form == "mp4":
                values = {aigc.KEY: _build_aigc(settings, provenance)} if settings.aigc else {}
                pieces = mp4.set_labels(source, packet, values)
            else:
                pieces = WRITERS[form](source, packet)
            with _replace_file(path) as target:
                source.write_pieces(pieces, target)
    except Malformed as error:
        raise ModelFailed(f"the finished {form} cannot be labelled: {error}") from error
    except OSError as error:
        raise StorageFailed(f"the finished file cannot be labelled: {error.strerror}") from error


def read_labels(path: Path) -> Labels:
    """Return the labels of any file; of what is damaged or not known here, those that can be found.

    Time and memory are bounded, but run it in a decoder process: the file may be hostile.

    Raises:
        OSError: the file cannot be read.
    """
    with Source(path) as source:
        form = _recognise_format(source.read_start(START_BYTES))
        properties = xmp.parse_packet(_find_packet(source, form) or b"")
        text = properties.get(xmp.AIGC)
        if text is None and form == "mp4":
            with contextlib.suppress(Malformed):
                text = mp4.find_value(source, aigc.KEY)
    return Labels(
        source_type=properties.get(xmp.SOURCE_TYPE),
        provider=properties.get(xmp.PROVIDER),
        system=properties.get(xmp.SYSTEM),
        system_version=properties.get(xmp.SYSTEM_VERSION),
        created_at=properties.get(xmp.CREATED_AT),
        content_id=properties.get(xmp.CONTENT_ID),
        prompt=properties.get(xmp.PROMPT),
        aigc=None if text is None else aigc.parse_label(text),
    )


def _list_properties(settings: MarksSettings, provenance: Provenance) -> dict[str, str]:
    """Return the properties of the XMP packet."""
    properties: dict[str, str] = {}
    if settings.source_type:
        properties = {
            xmp.SOURCE_TYPE: choose_source_type(provenance),
            xmp.SYSTEM: SYSTEM,
            xmp.SYSTEM_VERSION: read_system_version(),
            xmp.CREATOR_TOOL: f"{SYSTEM} {read_system_version()}",
            xmp.PROVIDER: settings.provider,
            xmp.CREATED_AT: provenance.created_at.isoformat(timespec="seconds"),
            xmp.CONTENT_ID: provenance.content_id,
        }
        prompt = "\n".join(provenance.prompts.values()) if settings.prompts else ""
        if prompt and len(prompt.encode()) <= MAX_PROMPT_BYTES:
            properties[xmp.PROMPT] = prompt
    if settings.aigc:
        properties[xmp.AIGC] = _build_aigc(settings, provenance)
    return properties


def _build_aigc(settings: MarksSettings, provenance: Provenance) -> str:
    return aigc.build_label(settings.provider, provenance.content_id)


@contextlib.contextmanager
def _replace_file(path: Path) -> Generator[BinaryIO]:
    """Yield a new file, which takes the place of `path` when the `with` block ends without an error."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as target:
            yield cast("BinaryIO", target)
        temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
