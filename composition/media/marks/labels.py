"""Writing the labels of a finished file: marks in its metadata that are not signed, IPTC's in XMP and `AIGC`."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Literal, cast

from composition.media.marks import aigc, xmp
from composition.media.marks.containers import gif, jpeg, mp4, png, webp
from composition.media.marks.containers.source import Malformed, Piece, Source
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings
from composition.media.marks.vocabulary import COMPOSITE, GENERATED, SYSTEM, MarkedFormat
from services.errors import ModelFailed, StorageFailed

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


def add_labels(path: Path, form: MarkedFormat, settings: MarksSettings, provenance: Provenance) -> None:
    """Write the labels into a finished file instead of those it has. Pixels and samples are not touched.

    The file is replaced atomically; memory holds only a small part of it. Blocks. Does nothing if both labels are off.

    Raises:
        StorageFailed: the file cannot be read or written.
        ModelFailed: the file is not of this format.
    """
    if not (settings.source_type or settings.aigc):
        return
    try:
        with path.open("rb", buffering=0) as file:
            source = Source(cast("BinaryIO", file))
            pieces = _plan_file(source, form, settings, provenance)
            with _replace_file(path) as target:
                source.write_pieces(pieces, target)
    except OSError as error:
        raise StorageFailed(f"the finished file cannot be labelled: {error.strerror}") from error


def label_bytes(data: bytes, form: MarkedFormat, settings: MarksSettings, provenance: Provenance) -> bytes:
    """Return a finished file with the labels, as `add_labels` writes them. Raises ModelFailed."""
    if not (settings.source_type or settings.aigc):
        return data
    source, target = Source(io.BytesIO(data)), io.BytesIO()
    source.write_pieces(_plan_file(source, form, settings, provenance), target)
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
    finally:
        temporary.unlink(missing_ok=True)
