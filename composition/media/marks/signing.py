"""Signing finished files with C2PA manifests."""

import logging
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

from c2pa import (  # pyright: ignore[reportMissingTypeStubs]
    Builder,
    C2paError,
    C2paSignerInfo,
    C2paSigningAlg,
    Context,
    Signer,
)

from composition.media.marks.c2pa_settings import make_settings
from composition.media.marks.credential import Credential
from services.errors import ModelFailed, StorageFailed

log = logging.getLogger(__name__)

IO_ERROR = cast("type[C2paError]", vars(C2paError)["Io"])
ALGORITHMS = {
    "es256": C2paSigningAlg.ES256,
    "es384": C2paSigningAlg.ES384,
    "ps256": C2paSigningAlg.PS256,
    "ed25519": C2paSigningAlg.ED25519,
}


def sign_file(
    source: Path, target: Path, mime: str, definition: dict[str, Any], archives: Sequence[bytes], credential: Credential
) -> None:
    """Write a copy of a file with a signed manifest. Blocks, and reads the file in pieces. Thread-safe.

    Args:
        source: a finished file.
        target: the copy, which must not exist.
        mime: the media type of the file.
        definition: the manifest; see `composition.media.marks.manifest`.
        archives: its ingredients; see `composition.media.marks.ingredients`.
        credential: what to sign with.

    Raises:
        StorageFailed: a file cannot be read or written.
        ModelFailed: signing failed.
    """
    try:
        with source.open("rb") as reading, target.open("x+b") as writing:
            sign_stream(reading, writing, mime, definition, archives, credential)
            writing.flush()
    except OSError as error:
        raise StorageFailed(f"the signed file cannot be written: {error.strerror or type(error).__name__}") from error


def sign_stream(
    source: IO[bytes],
    target: IO[bytes],
    mime: str,
    definition: dict[str, Any],
    archives: Sequence[bytes],
    credential: Credential,
) -> None:
    """Write a copy of a stream with a signed manifest, like `sign_file`. Raises OSError and ModelFailed."""
    try:
        with (
            Context.from_json(make_settings()) as context,
            Builder(definition, context=context) as builder,
            _open_signer(credential) as signer,
        ):
            for archive in archives:
                builder.add_ingredient_from_archive(BytesIO(archive))
            builder.sign(signer, mime, source, target)
    except IO_ERROR as error:
        raise OSError(f"{error}") from error
    except C2paError as error:  # what a callback raised was logged by c2pa
        log.exception("signing failed")
        raise ModelFailed("the file could not be signed; the reason has been logged") from error


def _open_signer(credential: Credential) -> Signer:
    if credential.callback is None:
        return Signer.from_info(
            C2paSignerInfo(credential.algorithm.encode(), credential.chain, credential.key or b"", None)
        )
    return Signer.from_callback(credential.callback, ALGORITHMS[credential.algorithm], credential.chain.decode())
