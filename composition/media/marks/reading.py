"""Reading the marks of a file in a decoder process."""

import asyncio
from pathlib import Path

from pydantic import ValidationError

from composition.media.decode import Decoder
from composition.media.limits import MediaLimits
from composition.media.marks.credential import load_trust_anchors
from composition.media.marks.report import MarksReport
from composition.media.marks.settings import MarksSettings
from composition.media.marks.store_search import may_have_store
from services.errors import UndecodableMedia

PARAM = "file"
"""The request field to name in errors."""


async def inspect_marks(path: Path, limits: MediaLimits, settings: MarksSettings, *, owner: str = "") -> MarksReport:
    """Read the marks of a file of any kind. A file that cannot be decoded has none.

    Args:
        path: a local file.
        limits: limits of the process that reads it.
        settings: who is trusted.
        owner: the owner of the file, among whom the processor is shared; empty if it is not known.

    Raises:
        UndecodableMedia: the file takes too long, or the process crashed on it.
        LimitExceeded: reading the file takes too much memory.
        ServiceBusy: other files are being decoded, and the processor or the memory was not free in time.
        ServiceLost: the process could not be started or was lost.
        ConfigError: the certificates of `settings.trust_anchors` cannot be read.
    """
    anchors = await asyncio.to_thread(load_trust_anchors, settings.trust_anchors)
    try:
        task = "marks" if await asyncio.to_thread(may_have_store, path) else "labels"
    except OSError as error:
        raise UndecodableMedia(f"{PARAM}: the file cannot be read: {error.strerror}", param=PARAM) from error
    _, report = await Decoder.run_task(path, task, {"trust_anchors": anchors}, limits, param=PARAM, owner=owner)
    try:
        return MarksReport.model_validate_json(report)
    except ValidationError as error:
        raise UndecodableMedia(f"{PARAM}: the marks of the file cannot be read", param=PARAM) from error
