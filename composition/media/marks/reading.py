"""Reading the marks of a file in a decoder process."""

import asyncio
from pathlib import Path

from pydantic import ValidationError

from composition.media.decode import Decoder
from composition.media.limits import MediaLimits
from composition.media.marks.report import MarksReport
from composition.media.marks.settings import MarksSettings
from services.errors import ConfigError, UndecodableMedia

PARAM = "file"
"""The request field to name in errors."""


async def inspect_marks(path: Path, limits: MediaLimits, settings: MarksSettings) -> MarksReport:
    """Read the marks of a file of any kind. A file that cannot be decoded has none.

    Args:
        path: a local file.
        limits: limits of the process that reads it.
        settings: who is trusted.

    Raises:
        UndecodableMedia: the file takes too long, or the process crashed on it.
        LimitExceeded: reading the file takes too much memory.
        ServiceLost: the process could not be started or was lost.
        ConfigError: the certificates of `settings.trust_anchors` cannot be read.
    """
    anchors = await asyncio.to_thread(_read_anchors, settings)
    _, report = await Decoder.run_task(path, "marks", {"trust_anchors": anchors}, limits, param=PARAM)
    try:
        return MarksReport.model_validate_json(report)
    except ValidationError as error:
        raise UndecodableMedia(f"{PARAM}: the marks of the file cannot be read", param=PARAM) from error


def _read_anchors(settings: MarksSettings) -> str | None:
    """Return the certificates that are trusted, in PEM; None if there are none. Raises ConfigError."""
    path = settings.trust_anchors
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(f"marks.trust_anchors: {path} cannot be read: {error}", param="marks") from error
