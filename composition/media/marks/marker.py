"""Writing the marks into finished files."""

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from composition.media.limits import MediaLimits
from composition.media.marks.credential import Credential, load_credential
from composition.media.marks.ingredients import PreparedIngredient
from composition.media.marks.installation_key import load_installation_key, needs_renewal
from composition.media.marks.manifest import describe_file
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings
from composition.media.marks.signing import sign_file, sign_stream
from composition.media.marks.vocabulary import MarkedFormat

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

    Raises ConfigError if the certificate of the settings cannot be used.
    """

    def __init__(self, settings: MarksSettings, state: Path, limits: MediaLimits | None = None) -> None:
        self.settings = settings
        self._state = state
        self._limits = limits or MediaLimits()
        self._lock = threading.Lock()
        self._credential = load_credential(settings.signing) if settings.c2pa and settings.signing else None

    async def mark_file(self, path: Path, form: MarkedFormat, provenance: Provenance) -> None:
        """Add the marks to a finished file, in place. Does nothing if all are off.

        Ingredients are read in a decoder process; labels and signature are written in a thread.

        Raises:
            StorageFailed: the file cannot be written.
            ModelFailed: signing failed.
        """
        if self.settings.are_off:
            return
        await asyncio.to_thread(self._mark_file, path, form, provenance, ())

    async def mark_bytes(self, data: bytes, form: MarkedFormat, provenance: Provenance) -> bytes:
        """Return a finished picture with the marks. Raises ModelFailed if signing fails."""
        if self.settings.are_off:
            return data
        return await asyncio.to_thread(self._mark_bytes, data, form, provenance, ())

    def _mark_file(
        self, path: Path, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> None:
        if not self.settings.c2pa:
            return
        definition = describe_file(provenance, self.settings, ingredients)
        draft = path.with_name(f".{path.name}.signed")
        draft.unlink(missing_ok=True)
        try:
            archives = [ingredient.archive for ingredient in ingredients]
            sign_file(path, draft, MIME_TYPES[form], definition, archives, self._get_credential())
            draft.replace(path)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    def _mark_bytes(
        self, data: bytes, form: MarkedFormat, provenance: Provenance, ingredients: Sequence[PreparedIngredient]
    ) -> bytes:
        if not self.settings.c2pa:
            return data
        definition = describe_file(provenance, self.settings, ingredients)
        archives = [ingredient.archive for ingredient in ingredients]
        signed = BytesIO()
        sign_stream(BytesIO(data), signed, MIME_TYPES[form], definition, archives, self._get_credential())
        return signed.getvalue()

    def _get_credential(self) -> Credential:
        """Return what to sign with. The installation's key is loaded, or made, with the first file."""
        with self._lock:
            if self.settings.signing is None and (self._credential is None or needs_renewal(self._credential)):
                self._credential = load_installation_key(self._state)
            if self._credential is None:
                raise AssertionError("a configured certificate is loaded at once")
            return self._credential
