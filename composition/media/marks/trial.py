"""Checking at the start of a server that files can be marked."""

import asyncio
import json
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from c2pa import Context, Reader  # pyright: ignore[reportMissingTypeStubs]

from composition.media.encode import encode_png
from composition.media.marks.c2pa_settings import make_settings
from composition.media.marks.marker import Marker
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings
from composition.media.visible_label import check_label
from services.errors import ConfigError, ModelFailed, ServiceLost, StorageFailed

INVALID = "Invalid"
"""State of a manifest that was changed, or whose certificate does not fit the profile of C2PA."""
SIDE = 16
"""Width and height of the picture that is signed on trial, in pixels."""


def check_marks(settings: MarksSettings, state: Path) -> None:
    """Mark a small picture, so that a key that cannot sign is found when the server starts, not with the first file.

    It also makes the key of the installation, if there is none. Blocks; not inside an event loop.

    Args:
        settings: the marks.
        state: the state folder.

    Raises:
        ConfigError: the label cannot be drawn, the picture cannot be signed, or readers do not accept its manifest.
    """
    if settings.visible is not None:
        check_label(settings.visible)
    picture = encode_png(np.zeros((SIDE, SIDE, 3), np.uint8))
    trial = Provenance("trial", datetime.now(UTC), "trial")
    try:
        marked = asyncio.run(Marker(settings, state).mark_bytes(picture, "png", trial))
    except OSError as error:
        raise ConfigError(
            f"marks: the key of the installation cannot be kept in {state}: {error}", param="marks"
        ) from error
    except (ModelFailed, ServiceLost, StorageFailed) as error:
        raise ConfigError(
            f"marks.signing: a trial picture could not be signed: {error.__cause__ or error.message}", param="marks"
        ) from error
    if settings.c2pa:
        _check_manifest(marked)


def _check_manifest(picture: bytes) -> None:
    """Raise ConfigError unless readers take the manifest of a PNG file for valid."""
    with (
        Context.from_json(make_settings()) as context,
        Reader("image/png", BytesIO(picture), context=context) as reader,
    ):
        store = json.loads(reader.json())
    if store["validation_state"] == INVALID:
        codes = [failure["code"] for failure in store["validation_results"]["activeManifest"]["failure"]]
        raise ConfigError(
            f"marks.signing: readers will not accept the manifests: {', '.join(codes)}; the certificate must fit the"
            " profile of C2PA",
            param="marks",
        )
