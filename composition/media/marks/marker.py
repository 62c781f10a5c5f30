"""Writing the marks into finished files."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast
from uuid import uuid4

from composition.media.limits import MediaLimits
from composition.media.marks.c2pa_settings import COPY_MIB
from composition.media.marks.credential import load_credential, load_trust_anchors
from composition.media.marks.ingredients import PreparedIngredient, prepare_ingredients
from composition.media.marks.installation_key import load_installation_key, needs_renewal
from composition.media.marks.labels import write_labels
from composition.media.marks.manifest import describe_file
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings
from composition.media.marks.signing import Manifest, ManifestSigner
from composition.media.marks.vocabulary import MarkedFormat
from services.errors import StorageFailed

MIME_TYPES: dict[MarkedFormat, str] = {
    "mp4": "video/mp4",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
}


@dataclass(frozen=True)
class Copies:
    """A finished file, and those that are made of it."""

    source: BinaryIO
    labelled: BinaryIO
    """With labels, before it is signed."""
    marked: BinaryIO
    """With all marks."""


class Marker:
    """Writes marks into files.

    Args:
        settings: which marks, and how they are signed.
        state: the state folder, in which the installation's key is kept.
        limits: limits on reading the user's files.

    Raises ConfigError if the certificates of the settings cannot be used.
    """

    def __init__(self, settings: MarksSettings, state: Path, limits: MediaLimits | None = None) -> None:
        self.settings = settings
        self._state = state
        self._limits = limits or MediaLimits()
        self._lock = threading.Lock()
        configured = load_credential(settings.signing) if settings.c2pa and settings.signing else None
        self._signer = None if configured is None else ManifestSigner(configured)
        self._trust_anchors = load_trust_anchors(settings.trust_anchors) if settings.c2pa else None

    async def mark_file(self, path: Path, form: MarkedFormat, provenance: Provenance) -> None:
        """Add the marks to a finished file, in place. Does nothing if all are off.

        Ingredients are read in a decoder process; labels and signature are written in a thread.

        Raises:
            StorageFailed: the file cannot be written.
            ModelFailed: signing failed.
            ServiceLost: the configured callback did not sign, or a decoder process was lost.
            ServiceBusy: other files are being decoded.
        """
        if self.settings.are_off:
            return
        ingredients = await self._prepare_ingredients(provenance)
        await asyncio.to_thread(self._replace_file, path, form, provenance, ingredients)

    async def mark_bytes(self, data: bytes, form: MarkedFormat, provenance: Provenance) -> bytes:
        """Return a finished picture with the marks. Raises as `mark_file` does."""
        if self.settings.are_off:
            return data
        ingredients = await self._prepare_ingredients(provenance)
        return await asyncio.to_thread(self._mark_copy, data, form, provenance, ingredients)

    async def _prepare_ingredients(self, provenance: Provenance) -> Sequence[PreparedIngredient]:
        if not (self.settings.c2pa and provenance.ingredients):
            return ()
        signer = await asyncio.to_thread(self._get_signer)
        return await prepare_ingredients(provenance.ingredients, self._limits, signer.credential, self._trust_anchors)

    def _mark_copy(
        self, data: bytes, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> bytes:
        marked = BytesIO()
        with BytesIO(data) as source, BytesIO() as labelled:
            self._write_marks(Copies(source, labelled, marked), form, provenance, ingredients)
        return marked.getvalue()

    def _replace_file(
        self, path: Path, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> None:
        """Replace a file at once by its copy with the marks. Blocks."""
        draft = path.with_name(f".{path.name[:40]}.{uuid4().hex}")
        try:
            with (
                path.open("rb", buffering=0) as source,
                SpooledTemporaryFile(COPY_MIB << 20, dir=str(path.parent)) as labelled,
                draft.open("x+b") as marked,
            ):
                copies = Copies(cast("BinaryIO", source), cast("BinaryIO", labelled), marked)
                self._write_marks(copies, form, provenance, ingredients)
            draft.chmod(path.stat().st_mode & 0o777)
            draft.replace(path)
        except OSError as error:
            raise StorageFailed(f"the marked file cannot be written: {error.strerror or error}") from error
        finally:
            draft.unlink(missing_ok=True)

    def _write_marks(
        self, copies: Copies, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> None:
        """Add labels and signature, in this order: the signature covers the labels. Raises OSError."""
        source = copies.source
        if self.settings.has_labels:
            target = copies.labelled if self.settings.c2pa else copies.marked
            write_labels(source, target, form, self.settings, provenance)
            source = target
        if self.settings.c2pa:
            source.seek(0)
            self._get_signer().sign(source, copies.marked, self._build_manifest(form, provenance, ingredients))

    def _build_manifest(
        self, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> Manifest:
        return Manifest(
            describe_file(provenance, self.settings, ingredients),
            MIME_TYPES[form],
            [ingredient.archive for ingredient in ingredients if ingredient.archive is not None],
        )

    def _get_signer(self) -> ManifestSigner:
        """Return what signs. The installation's key is loaded, or made, with the first file."""
        with self._lock:
            if self.settings.signing is None and (self._signer is None or needs_renewal(self._signer.credential)):
                self._signer = ManifestSigner(load_installation_key(self._state))
            if self._signer is None:
                raise AssertionError("a configured certificate is loaded at once")
            return self._signer
