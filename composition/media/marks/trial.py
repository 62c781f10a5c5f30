"""Checking at the start of a server that files can be marked."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from composition.media.encode import encode_png
from composition.media.marks.marker import Marker
from composition.media.marks.provenance import Provenance
from composition.media.marks.settings import MarksSettings
from composition.media.visible_label import check_label
from services.errors import ConfigError, ModelFailed, StorageFailed

SIDE = 16
"""Width and height of the picture that is signed on trial, in pixels."""


def check_marks(settings: MarksSettings, state: Path) -> None:
    """Mark a small picture, so that a key that cannot sign is found when the server starts, not with the first file.

    It also makes the key of the installation, if there is none. Blocks; not inside an event loop.

    Args:
        settings: the marks.
        state: the state folder.

    Raises:
        ConfigError: the label cannot be drawn, or the picture cannot be signed.
    """
    if settings.visible is not None:
        check_label(settings.visible)
    picture = encode_png(np.zeros((SIDE, SIDE, 3), np.uint8))
    trial = Provenance("trial", datetime.now(UTC), "trial")
    try:
        asyncio.run(Marker(settings, state).mark_bytes(picture, "png", trial))
    except OSError as error:
        raise ConfigError(
            f"marks: the key of the installation cannot be kept in {state}: {error}", param="marks"
        ) from error
    except (ModelFailed, StorageFailed) as error:
        raise ConfigError(
            f"marks.signing: a trial picture could not be signed: {error.message}", param="marks"
        ) from error
