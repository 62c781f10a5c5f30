"""Writing the marks into finished files."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from composition.media.limits import MediaLimits
from composition.media.marks.credential import Credential, load_credential, load_trust_anchors
from composition.media.marks.ingredients import PreparedIngredient, prepare_ingredients
from composition.media.marks.installation_key import load_installation_key, needs_renewal
from composition.media.marks.labels import add_labels, label_bytes
from composition.media.marks.manifest import describe_file
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings
from composition.media.marks.signing import Manifest, sign_bytes, sign_file
from composition.media.marks.vocabulary import MarkedFormat
from services.errors import StorageFailed

MIME_TYPES: dict[MarkedFormat, str] = {
    "mp4": "video/mp4",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
}


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
        self._credential = load_credential(settings.signing) if settings.c2pa and settings.signing else None
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
        await asyncio.to_thread(self._write_marks, path, form, provenance, ingredients)

    async def mark_bytes(self, data: bytes, form: MarkedFormat, provenance: Provenance) -> bytes:
        """Return a finished picture with the marks. Raises as `mark_file` does."""
        if self.settings.are_off:
            return data
        ingredients = await self._prepare_ingredients(provenance)
        return await asyncio.to_thread(self._mark_copy, data, form, provenance, ingredients)

    async def _prepare_ingredients(self, provenance: Provenance) -> Sequence[PreparedIngredient]:
        if not (self.settings.c2pa and provenance.ingredients):
            return ()
        credential = await asyncio.to_thread(self._get_credential)
        return await prepare_ingredients(provenance.ingredients, self._limits, credential, self._trust_anchors)

    def _mark_copy(
        self, data: bytes, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> bytes:
        data = label_bytes(data, form, self.settings, provenance)
        if not self.settings.c2pa:
            return data
        return sign_bytes(data, self._build_manifest(form, provenance, ingredients), self._get_credential())

    def _write_marks(
        self, path: Path, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> None:
        """Add labels and signature, in this order: the signature covers the labels. Blocks."""
        add_labels(path, form, self.settings, provenance)
        if not self.settings.c2pa:
            return
        manifest = self._build_manifest(form, provenance, ingredients)
        draft = path.with_name(f".{path.name[:40]}.{uuid4().hex}")
        try:
            sign_file(path, draft, manifest, self._get_credential())
            draft.chmod(path.stat().st_mode & 0o777)
            draft.replace(path)
        except OSError as error:
            raise StorageFailed(f"the signed file cannot be written: {error.strerror}") from error
        finally:
            draft.unlink(missing_ok=True)

    def _build_manifest(
        self, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> Manifest:
        return Manifest(
            describe_file(provenance, self.settings, ingredients),
            MIME_TYPES[form],
            [ingredient.archive for ingredient in ingredients if ingredient.archive is not None],
        )

    def _get_credential(self) -> Credential:
        """Return what to sign with. The installation's key is loaded, or made, with the first file."""
        with self._lock:
            if self.settings.signing is None and (self._credential is None or needs_renewal(self._credential)):
                self._credential = load_installation_key(self._state)
            if self._credential is None:
                raise AssertionError("a configured certificate is loaded at once")
            return self._credential
