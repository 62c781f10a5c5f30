"""Writing the labels of a finished file: marks in its metadata that are not signed, IPTC's in XMP and `AIGC`."""

import io
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from typing import BinaryIO, Literal

from composition.media.marks import aigc, xmp
from composition.media.marks.containers import gif, jpeg, mp4, png, webp
from composition.media.marks.containers.source import Malformed, Piece, Source
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings
from composition.media.marks.vocabulary import COMPOSITE, GENERATED, SYSTEM, MarkedFormat
from services.errors import ModelFailed

MAX_PROMPT_BYTES = 16_000
"""Maximum size of all prompts together in XMP; longer ones are left out, because the packet must fit into a JPEG."""

PictureFormat = Literal["png", "jpeg", "webp", "gif"]
WRITERS: Mapping[PictureFormat, Callable[[Source, bytes], list[Piece]]] = {
    "png": png.set_xmp,
    "jpeg": jpeg.set_xmp,
    "webp": webp.set_xmp,
    "gif": gif.set_xmp,
}


def choose_source_type(provenance: Provenance) -> str:
    """Return IPTC's digital source type of a generated file."""
    return COMPOSITE if provenance.is_composite else GENERATED


@cache
def read_system_version() -> str:
    """Return the version of the system."""
    return version("reelgraph")


def write_labels(
    source: BinaryIO, target: BinaryIO, form: MarkedFormat, settings: MarksSettings, provenance: Provenance
) -> None:
    """Write a copy of a finished file with the labels instead of those it has. Pixels and samples are not touched.

    Memory holds only a small part of the file. Blocks.

    Raises:
        OSError: the file cannot be read or written.
        ModelFailed: the file is not of this format.
    """
    reader = Source(source)
    reader.write_pieces(_plan_file(reader, form, settings, provenance), target)


def label_bytes(data: bytes, form: MarkedFormat, settings: MarksSettings, provenance: Provenance) -> bytes:
    """Return a finished file with the labels; as it is if both are off. Raises ModelFailed."""
    if not settings.has_labels:
        return data
    target = io.BytesIO()
    write_labels(io.BytesIO(data), target, form, settings, provenance)
    return target.getvalue()


def _plan_file(source: Source, form: MarkedFormat, settings: MarksSettings, provenance: Provenance) -> list[Piece]:
    """Return the pieces of a labelled file. Raises ModelFailed if the file is not of this format."""
    packet = xmp.build_packet(_list_properties(settings, provenance))
    try:
        if form != "mp4":
            return WRITERS[form](source, packet)
        return mp4.set_labels(source, packet, {aigc.KEY: _build_aigc(settings, provenance)} if settings.aigc else {})
    except Malformed as error:
        raise ModelFailed(f"the finished {form} cannot be labelled: {error}") from error


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
