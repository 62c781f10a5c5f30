"""Files of the user as ingredients of a manifest.

What such a file says of itself, its manifest store, is read, validated and packed in a decoder process
(`composition.media.marks.packing`). A file whose manifest cannot be kept is an ingredient too; our own assertion says
why.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from composition.media.decode import Decoder
from composition.media.limits import MediaLimits
from composition.media.marks.credential import Credential
from composition.media.marks.provenance import Ingredient
from composition.media.marks.store_search import CHUNK_BYTES, REFERENCE, STORE, NameSearch
from services.errors import LimitExceeded, StorageFailed, UndecodableMedia

Relationship = Literal["parentOf", "inputTo"]
OwnManifest = Literal["kept", "none", "unreadable", "too large"]
"""What became of the manifest of an ingredient."""

HEAD_BYTES = 12
UNKNOWN = "application/octet-stream"
SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (b"PK\3\4", "application/zip"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "application/ogg"),
)
"""First bytes of a file → its media type."""
RIFF = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo", b"WAVE": "audio/wav"}
BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
}
"""Major brand of an ISO base media file → media type; all others are `video/mp4`."""


@dataclass(frozen=True)
class Room:
    """Maximum sizes of ingredients with their manifests, in bytes."""

    one: int = 4 << 20
    total: int = 16 << 20


@dataclass(frozen=True)
class PreparedIngredient:
    """A file of the user, ready to be part of a manifest."""

    label: str
    """Name in the definition of the manifest."""
    field: str
    """The request field."""
    relationship: Relationship
    mime: str
    sha256: str
    """SHA-256 of the file, in hex."""
    manifest: OwnManifest
    archive: bytes | None
    """An archive of c2pa-rs with this ingredient; None if its manifest could not be kept."""

    def describe(self) -> dict[str, str]:
        """Return its entry in our own assertion."""
        return {
            "field": self.field,
            "relationship": self.relationship,
            "format": self.mime,
            "sha256": self.sha256,
            "manifest": self.manifest,
        }

    def define(self) -> dict[str, str]:
        """Return its definition for c2pa-rs."""
        return {
            "title": self.field,
            "label": self.label,
            "format": self.mime,
            "relationship": self.relationship,
            "description": f"SHA-256 {self.sha256}",
        }


async def prepare_ingredients(
    ingredients: Sequence[Ingredient],
    limits: MediaLimits,
    credential: Credential,
    trust_anchors: str | None,
    room: Room = Room(),
) -> list[PreparedIngredient]:
    """Prepare files of the user, one after the other. The first that is marked as the parent is `parentOf`.

    Args:
        ingredients: the files.
        limits: limits on the decoder processes.
        credential: what the manifest will be signed with.
        trust_anchors: certificates in PEM whose manifests are trusted.
        room: maximum sizes; a manifest for which there is no room is left out.

    Raises StorageFailed: a file cannot be read; ServiceLost and ServiceBusy as `Decoder.run_task` does.
    """
    prepared: list[PreparedIngredient] = []
    signing = {
        "trust_anchors": trust_anchors,
        "chain": credential.chain.decode(),
        "algorithm": credential.algorithm,
    }
    left = room.total
    has_parent = False
    for number, ingredient in enumerate(ingredients):
        relationship: Relationship = "parentOf" if ingredient.is_parent and not has_parent else "inputTo"
        has_parent = has_parent or ingredient.is_parent
        plain, may_have_manifest = await asyncio.to_thread(_describe_file, ingredient, f"input-{number}", relationship)
        if not may_have_manifest:
            prepared.append(plain)
            continue
        options = signing | {"definition": plain.define(), "mime": plain.mime, "max_bytes": min(room.one, left)}
        prepared.append(await _pack(plain, ingredient, limits, options))
        left -= len(prepared[-1].archive or b"")
    return prepared


async def _pack(
    plain: PreparedIngredient, ingredient: Ingredient, limits: MediaLimits, options: dict[str, Any]
) -> PreparedIngredient:
    try:
        answer, archive = await Decoder.run_task(ingredient.path, "ingredient", options, limits, owner=ingredient.owner)
    except LimitExceeded:
        return replace(plain, manifest="too large")
    except UndecodableMedia:
        return replace(plain, manifest="unreadable")
    return replace(plain, manifest="kept" if answer["has_manifest"] else "none", archive=archive)


def _describe_file(ingredient: Ingredient, label: str, relationship: Relationship) -> tuple[PreparedIngredient, bool]:
    """Return an ingredient without its manifest, and whether the file may have one. Nothing is parsed."""
    digest = hashlib.sha256()
    mime, search = UNKNOWN, NameSearch((STORE, REFERENCE))
    try:
        with ingredient.path.open("rb") as file:
            mime = recognise_media(file.read(HEAD_BYTES))
            file.seek(0)
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                search.read(chunk)
    except OSError as error:
        raise StorageFailed(f"{ingredient.field}: the file cannot be read: {error.strerror}") from error
    plain = PreparedIngredient(label, ingredient.field, relationship, mime, digest.hexdigest(), "none", None)
    return plain, search.found


def recognise_media(head: bytes) -> str:
    """Return the media type of a file by its first bytes."""
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "video/mp4")
    if head[:4] == b"RIFF":
        return RIFF.get(head[8:12], UNKNOWN)
    return next((mime for signature, mime in SIGNATURES if head.startswith(signature)), UNKNOWN)
