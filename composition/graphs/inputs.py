"""Opening the media that a request names."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from composition.graphs.run import GraphSettings
from composition.media.decode import Decoder
from composition.records.artifacts import Artifacts
from services.frames import Frames, Pixels


class Media:
    """Opens the media that a request names."""

    def __init__(self, settings: GraphSettings) -> None:
        self._artifacts = Artifacts(settings.artifacts)
        self._limits = settings.media

    @asynccontextmanager
    async def opened(self, url: str) -> AsyncGenerator[Decoder]:
        """A file of any kind, or a folder of pictures. Raises NotFound, UndecodableMedia, LimitExceeded."""
        if "://" not in url and await asyncio.to_thread(Path(url).is_dir):
            async with Decoder.open(Path(url), self._limits) as decoder:
                yield decoder
            return
        async with self._artifacts.open_local(url) as path, Decoder.open(path, self._limits) as decoder:
            yield decoder

    async def own(self, url: str) -> Frames:
        """A picture that the project itself has written: no process needs to guard against it. Raises NotFound."""
        async with self._artifacts.open_local(url) as path:
            return Frames(await asyncio.to_thread(_read, path))

    async def picture(self, url: str) -> Frames:
        """The only frame of a picture, or the last one of a video."""
        async with self.opened(url) as decoder:
            return await decoder.read_last()


def _read(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(picture)[None]
