"""Files of the user as ingredients of a manifest.

What a file says of itself (its manifest store) is read, validated and packed in a decoder process.
"""

from dataclasses import dataclass
from typing import Literal

Relationship = Literal["parentOf", "inputTo"]


@dataclass(frozen=True)
class PreparedIngredient:
    """A file of the user, ready to be part of a manifest."""

    label: str
    """Name in the definition of the manifest."""
    field: str
    """The request field."""
    relationship: Relationship
    archive: bytes
    """An archive of c2pa-rs that holds this one ingredient."""
    mime: str
    sha256: str
    """SHA-256 of the file, in hex."""
    manifest: str
    """What became of its own manifest: `kept`, `none`, or why it is missing."""

    def describe(self) -> dict[str, str]:
        """Return its entry in our own assertion."""
        return {
            "field": self.field,
            "relationship": self.relationship,
            "format": self.mime,
            "sha256": self.sha256,
            "manifest": self.manifest,
        }
