"""Writing the marks into finished files."""

from pathlib import Path

from composition.media.marks.labels import MarkedFormat
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings


class Marker:
    """Writes marks into files.

    Args:
        settings: which marks, and how they are signed.
        state: the state folder, in which the installation's key is kept.
    """

    def __init__(self, settings: MarksSettings, state: Path) -> None:
        self.settings = settings
        self._state = state

    async def mark_file(self, path: Path, form: MarkedFormat, provenance: Provenance) -> None:
        """Add the marks to a finished file, in place. Does nothing if all are off.

        Ingredients are read in a decoder process; labels and signature are written in a thread.

        Raises:
            StorageFailed: the file cannot be written.
            ModelFailed: signing failed.
        """
        raise NotImplementedError

    async def mark_bytes(self, data: bytes, form: MarkedFormat, provenance: Provenance) -> bytes:
        """Return a finished picture with the marks. Raises ModelFailed if signing fails."""
        raise NotImplementedError
