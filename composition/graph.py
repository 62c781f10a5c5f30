"""What all graphs have in common: how a request is completed, what a run is told, what a graph is bound with."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from composition.artifacts import Artifacts, ArtifactSettings
from composition.calls import Transport
from composition.decode import Decoder, MediaKind, MediaLimits
from services.frames import Fact, Frames, Item, JsonValue, StageDone


class GraphRequest(BaseModel):
    """The root of the requests that a graph can run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {}
    """The fields that hold media. By handle: a path or URL that the replica can open; `pictures` may lie in a folder.
    Over HTTP: a file id, a `data:` URL, or the multipart part of that name; `pictures` may be a list of these."""
    REFERENCE: ClassVar[str] = ""
    """The field that OpenAI's `input_reference` stands for."""
    STAGES: ClassVar[Mapping[str, float]] = {}
    """The stages of a run in their order, each with its share of the whole: an estimate, for progress."""
    KEEPS_FRAMES: ClassVar[bool] = False
    """Whether each frame is kept without loss as soon as it is made: where it is costly, and the next is made of it."""
    SEGMENTS: ClassVar[tuple[int, int]] = (8, 32)
    """Frames in the output's first segment, which is short so that a player starts early, and in each later one."""

    def check_media(self, frames: Mapping[str, int]) -> None:
        """Check the request against its media, before anything is made. Raises InvalidParameter.

        Args:
            frames: media field → how many frames, or pictures, there are.
        """


Request = TypeVar("Request", bound=GraphRequest)


@dataclass(frozen=True)
class Known:
    """What an earlier, interrupted run of the same job has left."""

    key: str = ""
    """The job's id. What a dead caller left running under it is stopped."""
    again: bool = False
    """Whether there was an earlier run, which may still be going on unheard."""
    facts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    frames: int = 0
    """How many frames of the output are safe and need not be sent again."""
    last: str = ""
    """Where the last of them lies, without loss, if the graph's frames are kept."""


NOTHING_KNOWN = Known()


class GraphSettings(BaseModel):
    """What the configuration tells a graph."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifacts: ArtifactSettings
    media: MediaLimits = MediaLimits()
    defaults: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Values for fields that a request leaves out, where they should differ from the request class's own."""


def completed(request: Request, defaults: Mapping[str, Any]) -> Request:
    """Return the request with the configuration's defaults in the fields that were left out."""
    return type(request).model_validate({**defaults, **request.model_dump(exclude_unset=True)})


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
        async with self._artifacts.local(url) as path, Decoder.open(path, self._limits) as decoder:
            yield decoder

    async def picture(self, url: str) -> Frames:
        """The only frame of a picture, or the last one of a video."""
        async with self.opened(url) as decoder:
            return await decoder.last()


class Stages:
    """Says once for the whole video what every frame's call says again."""

    def __init__(self) -> None:
        self._told: dict[str, object] = {}
        self._done: dict[str, StageDone] = {}

    def passes(self, item: Item) -> bool:
        """Whether the item is new to those who watch."""
        if isinstance(item, StageDone):
            before = self._done.get(item.replica)
            self._done[item.replica] = replace(item, seconds=item.seconds + (before.seconds if before else 0.0))
            return False
        if not isinstance(item, Fact):
            return True
        new = item.name != "seed" and self._told.get(item.name) != item.value
        self._told[item.name] = item.value
        return new

    def done(self) -> list[StageDone]:
        """What each replica did, in all."""
        return list(self._done.values())


__all__ = [
    "NOTHING_KNOWN",
    "GraphRequest",
    "GraphSettings",
    "Known",
    "Media",
    "MediaKind",
    "Stages",
    "Transport",
    "completed",
]
