"""Publishing the files that a job leaves: each one is marked once, and then stored."""

import asyncio
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from composition.jobs.provenance import OriginReader
from composition.media.encode import encode_png
from composition.media.encoding import Hardware
from composition.media.marks.labels import label_bytes
from composition.media.marks.marker import MarkedFormat, Marker
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings, VisibleLabel
from composition.media.visible_label import draw_label, uncover_label
from composition.records.artifacts import Artifacts
from composition.records.store import Store
from services.frames import Pixels

FORMATS: dict[str, MarkedFormat] = {"mp4": "mp4", "png": "png", "jpg": "jpeg", "webp": "webp", "gif": "gif"}
"""Extension of a file → its format."""

ARCHIVE = "zip"
"""Extension of a zip archive of PNG files."""


@dataclass(frozen=True)
class OutputSettings:
    """How the outputs of jobs are encoded and marked."""

    hardware: Hardware = "never"
    """Whether videos are encoded on a GPU where one can."""
    marker: Marker | None = None
    """Writes the marks; None if files have none."""

    @property
    def label(self) -> VisibleLabel | None:
        """The label that people see; None if there is none."""
        return None if self.marker is None else self.marker.settings.visible

    def draw_label(self, pixels: Pixels) -> Pixels:
        """Return frames or pictures, (…, h, w, 3) uint8 RGB, with the label that people see, if there is one."""
        return pixels if self.label is None else draw_label(pixels, self.label)

    def draw_label_on(self, pixels: Pixels, alpha: Pixels | None) -> tuple[Pixels, Pixels | None]:
        """Return a picture, (h, w, 3), and its opacity, (h, w) or None, with the label; the label is opaque."""
        if alpha is None or self.label is None:
            return self.draw_label(pixels), alpha
        return self.draw_label(pixels), uncover_label(alpha, self.label)

    def draw_label_on_png(self, name: str, data: bytes) -> bytes:
        """Return a PNG file that this project has written, without transparency, with the label. Blocks."""
        del name
        with Image.open(io.BytesIO(data)) as picture:
            return encode_png(self.draw_label(np.array(picture)))


DEFAULT_OUTPUTS = OutputSettings()
"""No marks."""


class Publisher:
    """Marks finished files of jobs and stores them.

    Args:
        store: the database.
        artifacts: the artifact store.
        outputs: how they are marked.
    """

    def __init__(self, store: Store, artifacts: Artifacts, outputs: OutputSettings = DEFAULT_OUTPUTS) -> None:
        self._artifacts = artifacts
        self._origins = OriginReader(store, artifacts)
        self.outputs = outputs
        marker = outputs.marker
        self._marker = None if marker is None or marker.settings.are_off else marker

    async def publish_file(self, job_id: str, variant: str, draft: Path, key: str) -> None:
        """Mark a finished file in place, and move it into the artifact store.

        Args:
            job_id: the job that made it.
            variant: the result, e.g. `video`.
            draft: the local file, see `Artifacts.create_draft`.
            key: its key; the extension tells the format.

        Raises:
            StorageFailed: the file cannot be written.
            ModelFailed: signing failed.
            NotFound: the job has been deleted.
        """
        await self.mark_file(job_id, variant, draft, key.rpartition(".")[2])
        await asyncio.to_thread(self._artifacts.put_file, key, draft)

    async def publish_bytes(self, job_id: str, variant: str, data: bytes, key: str) -> None:
        """Mark a finished picture and store it. Raises what `publish_file` raises."""
        extension = key.rpartition(".")[2]
        if self._marker is not None:
            async with self._origins.open(job_id, variant, extension) as provenance:
                data = await self._marker.mark_bytes(data, FORMATS[extension], provenance)
        await asyncio.to_thread(self._artifacts.put, key, data)

    async def mark_file(self, job_id: str, variant: str, draft: Path, extension: str) -> None:
        """Mark a finished file in place. The PNG files of a zip archive are labelled, and not signed.

        Raises what `publish_file` raises.
        """
        marker = self._marker
        if marker is None:
            return
        async with self._origins.open(job_id, variant, extension) as provenance:
            if extension == ARCHIVE:
                label = partial(_label_png, marker.settings, provenance)
                marking = asyncio.ensure_future(asyncio.to_thread(change_pictures, draft, label))
            else:
                marking = asyncio.ensure_future(marker.mark_file(draft, FORMATS[extension], provenance))
            try:
                await asyncio.shield(marking)
            finally:  # if this is cancelled, the file is in use until its thread ends
                await asyncio.wait([marking])


def change_pictures(archive: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Replace each file of a zip archive, with one in memory at a time. Blocks.

    Args:
        archive: the zip archive, which is replaced.
        change: gets the name of a file and its content, and returns its new content.
    """
    changed = archive.with_name(f"{archive.name}.changed")
    try:
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(changed, "w") as target:
            for entry in source.infolist():
                target.writestr(zipfile.ZipInfo(entry.filename), change(entry.filename, source.read(entry)))
        changed.replace(archive)
    finally:
        changed.unlink(missing_ok=True)


def _label_png(settings: MarksSettings, provenance: Provenance, name: str, data: bytes) -> bytes:
    """Return a PNG file of an archive with its labels."""
    return label_bytes(data, "png", settings, replace(provenance, content_id=f"{provenance.content_id}/{name}"))
