"""Searching files for C2PA manifest stores by name. Nothing is parsed, so no file can do harm here."""

from collections.abc import Sequence
from pathlib import Path

STORE = b"jumb"
"""Name of the boxes that a manifest store consists of."""
REFERENCE = b"dcterms:provenance"
"""The property of XMP that refers to a manifest store elsewhere."""
CHUNK_BYTES = 1 << 20


class NameSearch:
    """Searches a file that is read in chunks for any of several names."""

    def __init__(self, names: Sequence[bytes]) -> None:
        self._names = names
        self._overlap = max(map(len, names)) - 1
        self._end = b""
        self.found = False
        """Whether one was found."""

    def read(self, chunk: bytes) -> None:
        """Search the next chunk, and names that began in the one before."""
        if not self.found:
            window = self._end + chunk
            self.found = any(name in window for name in self._names)
            self._end = window[-self._overlap :]


def may_have_store(path: Path) -> bool:
    """Return whether a file contains the name of a store's boxes, perhaps by chance. Blocks. Raises OSError."""
    search = NameSearch([STORE])
    with path.open("rb", buffering=0) as file:
        while not search.found and (chunk := file.read(CHUNK_BYTES)):
            search.read(chunk)
    return search.found
