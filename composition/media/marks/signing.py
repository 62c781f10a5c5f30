"""Signing finished files with C2PA manifests."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from c2pa import (  # pyright: ignore[reportMissingTypeStubs]
    Builder,
    C2paError,
    C2paSignerInfo,
    C2paSigningAlg,
    Context,
    Signer,
)

from composition.media.marks.c2pa_settings import make_settings
from composition.media.marks.containers.boxes import list_boxes
from composition.media.marks.containers.source import Malformed, Source
from composition.media.marks.credential import Credential
from services.errors import ModelFailed, ServiceLost, StorageFailed

log = logging.getLogger(__name__)

IO_ERROR = cast("type[C2paError]", vars(C2paError)["Io"])
ALGORITHMS = {
    "es256": C2paSigningAlg.ES256,
    "es384": C2paSigningAlg.ES384,
    "ps256": C2paSigningAlg.PS256,
    "ed25519": C2paSigningAlg.ED25519,
}


LARGE_BYTES = 64 << 20
"""c2pa-rs holds up to 512 MiB of an unbroken part of a file while it computes the hash. Media data that are larger than
this are hashed in blocks, as a Merkle tree."""


@dataclass(frozen=True)
class Manifest:
    """What is to be signed."""

    definition: Mapping[str, Any]
    """See `composition.media.marks.manifest`."""
    mime: str
    """Media type of the file."""
    archives: Sequence[bytes] = ()
    """Ingredients; see `composition.media.marks.ingredients`."""


def sign_file(source: Path, target: Path, manifest: Manifest, credential: Credential) -> None:
    """Write a copy of a file with a signed manifest. Blocks, and reads the file in pieces. Thread-safe.

    Raises:
        StorageFailed: a file cannot be read or written.
        ModelFailed: signing failed.
        ServiceLost: the function that signs failed, or signed with another key.
    """
    try:
        with source.open("rb") as reading, target.open("x+b") as writing:
            settings = make_settings(has_blocks=manifest.mime == "video/mp4" and _has_large_data(reading))
            _sign_stream(reading, writing, manifest, credential, settings)
    except OSError as error:
        raise StorageFailed(f"the signed file cannot be written: {error.strerror or error}") from error


def sign_bytes(data: bytes, manifest: Manifest, credential: Credential) -> bytes:
    """Return a file with a signed manifest. Raises ModelFailed and ServiceLost, like `sign_file`."""
    signed = BytesIO()
    _sign_stream(BytesIO(data), signed, manifest, credential, make_settings())
    return signed.getvalue()


def _has_large_data(file: BinaryIO) -> bool:
    """Return whether an mp4 has its media data in one large part.

    Fragmented files have many parts, which c2pa-rs reads one by one.
    """
    try:
        parts = [box for box in list_boxes(Source(file)) if box.kind == b"mdat"]
    except Malformed:
        return False
    return len(parts) == 1 and parts[0].end - parts[0].begin > LARGE_BYTES


def _sign_stream(source: BinaryIO, target: BinaryIO, manifest: Manifest, credential: Credential, settings: str) -> None:
    try:
        with (
            Context.from_json(settings) as context,
            Builder(manifest.definition, context=context) as builder,
            _open_signer(credential) as signer,
        ):
            for archive in manifest.archives:
                builder.add_ingredient_from_archive(BytesIO(archive))
            builder.sign(signer, manifest.mime, source, target)
    except IO_ERROR as error:
        raise OSError(f"{error}") from error
    except C2paError as error:  # what a callback raised was logged by c2pa
        log.exception("signing failed")
        kind = ModelFailed if credential.callback is None else ServiceLost
        raise kind("the file could not be signed; the reason has been logged") from error


def _open_signer(credential: Credential) -> Signer:
    if credential.callback is None:
        return Signer.from_info(
            C2paSignerInfo(credential.algorithm.encode(), credential.chain, credential.key or b"", None)
        )
    return Signer.from_callback(credential.callback, ALGORITHMS[credential.algorithm], credential.chain.decode())
