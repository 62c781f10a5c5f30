"""Opens the media files of a request."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from composition.graphs.run import GraphSettings
from composition.media.decode import Decoder, MediaFacts
from composition.records.artifacts import Artifacts
from services.frames import Fact, Frames, Pixels


class Media:
    """Opens the media files of a request."""

    def __init__(self, settings: GraphSettings) -> None:
        self._artifacts = Artifacts(settings.artifacts)
        self._limits = settings.media

    @asynccontextmanager
    async def open(self, url: str, owner: str = "") -> AsyncGenerator[Decoder]:
        """Open a media file, or a folder of pictures, in the turns of an owner.

        Raises NotFound, UndecodableMedia, LimitExceeded, ServiceBusy.
        """
        if "://" not in url and await asyncio.to_thread(Path(url).is_dir):
            async with Decoder.open(Path(url), self._limits, owner=owner) as decoder:
                yield decoder
            return
        async with self._artifacts.open_local(url) as path, Decoder.open(path, self._limits, owner=owner) as decoder:
            yield decoder

    async def read_stored(self, url: str) -> Frames:
        """Read a picture that this project has written; it needs no sandboxed decoder. Raises NotFound."""
        async with self._artifacts.open_local(url) as path:
            return Frames(await asyncio.to_thread(_read, path))

    async def read_picture_with_alpha(self, url: str, owner: str = "") -> tuple[Frames, Frames | None]:
        """Read a picture's colours, not composited, and its opacity as a grey frame; None if it is opaque.

        Raises NotFound, UndecodableMedia, LimitExceeded, ServiceBusy.
        """
        async with self.open(url, owner) as decoder:
            return await decoder.read_picture_with_alpha()

    async def read_picture(self, url: str, owner: str = "") -> Frames:
        """Read a picture, or the last frame of a video.

        Raises NotFound, UndecodableMedia, LimitExceeded, ServiceBusy.
        """
        async with self.open(url, owner) as decoder:
            return await decoder.read_last()


def report_reading(field: str, facts: MediaFacts) -> list[Fact]:
    """Return what was found only by reading a file: damage, and frames of another size, which were fitted.

    Args:
        field: the media field, for messages.
        facts: the properties of the file after it was read.
    """
    found = [Fact("degraded", f"{field}: {facts.damaged}")] if facts.damaged else []
    return [*found, Fact("resized", facts.changes["resized"])] if "resized" in facts.changes else found


def _read(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(picture)[None]
