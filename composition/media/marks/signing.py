"""Signing finished files with C2PA manifests."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
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
from services.errors import ModelFailed, ServiceLost

log = logging.getLogger(__name__)

IO_ERROR = cast("type[C2paError]", vars(C2paError)["Io"])
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


class ManifestSigner:
    """Signs files with one certificate. Thread-safe: what the library needs for that is made once for all files.

    Args:
        credential: the certificate, and what signs with it.
    """

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
        self._lock = threading.Lock()
        self._contexts: dict[bool, Context] = {}
        """Whether media data are hashed in blocks → settings and signer of the library."""

    def sign(self, source: BinaryIO, target: BinaryIO, manifest: Manifest) -> None:
        """Write a copy of a file with a signed manifest. Blocks, and reads the file in pieces.

        Args:
            source: the finished file, from its beginning.
            target: a new file that can also be read.
            manifest: what is to be signed.

        Raises:
            OSError: a file cannot be read or written.
            ModelFailed: signing failed.
            ServiceLost: the function that signs failed, or signed with another key.
        """
        context = self._open_context(has_blocks=manifest.mime == "video/mp4" and _has_large_data(source))
        try:
            with Builder(manifest.definition, context=context) as builder:
                for archive in manifest.archives:
                    builder.add_ingredient_from_archive(BytesIO(archive))
                builder.sign(manifest.mime, source, target)
        except IO_ERROR as error:
            raise OSError(f"{error}") from error
        except C2paError as error:  # what a callback raised was logged by c2pa
            raise self._report_failure(error) from error

    def _open_context(self, *, has_blocks: bool) -> Context:
        with self._lock:
            context = self._contexts.get(has_blocks)
            if context is None:
                try:
                    context = Context.from_json(make_settings(has_blocks=has_blocks), _open_signer(self.credential))
                except C2paError as error:
                    raise self._report_failure(error) from error
                self._contexts[has_blocks] = context
            return context

    def _report_failure(self, error: C2paError) -> ModelFailed | ServiceLost:
        """Log why signing failed, and return the error for the user."""
        log.error("signing failed", exc_info=error)
        kind = ModelFailed if self.credential.callback is None else ServiceLost
        return kind("the file could not be signed; the reason has been logged")


def _has_large_data(file: BinaryIO) -> bool:
    """Return whether an mp4 has its media data in one large part.

    Fragmented files have many parts, which c2pa-rs reads one by one.
    """
    try:
        parts = [box for box in list_boxes(Source(file)) if box.kind == b"mdat"]
    except Malformed:
        return False
    return len(parts) == 1 and parts[0].end - parts[0].begin > LARGE_BYTES


def _open_signer(credential: Credential) -> Signer:
    if credential.callback is None:
        return Signer.from_info(
            C2paSignerInfo(credential.algorithm.encode(), credential.chain, credential.key or b"", None)
        )
    algorithm = C2paSigningAlg[credential.algorithm.upper()]
    return Signer.from_callback(credential.callback, algorithm, credential.chain.decode())
