"""Wan alone: a picture → a video that begins with it."""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from composition.calls import Handle, Transport, opened, stop_everywhere, stream
from composition.graph import NOTHING_KNOWN, GraphRequest, GraphSettings, Known, Media, completed
from services.frames import Fact, Item
from services.limits import MAX_TEXT
from services.wan.request import Sampling, WanRequest


class WanI2VRequest(GraphRequest, Sampling):
    """Picture to video."""

    MEDIA = {"image": "image", "last_image": "image"}  # noqa: RUF012
    REFERENCE = "image"
    STAGES = {"denoise": 0.85, "decode": 0.15}  # noqa: RUF012

    image: str
    """The first frame."""
    last_image: str | None = None
    """The last frame, for checkpoints that can end where they are told."""
    prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        return {**fields, "num_frames": frames_lasting(seconds, rate)}


class WanI2V:
    """The graph of one stage."""

    def __init__(self, wan: Handle, settings: GraphSettings, transport: Transport) -> None:
        self._wan = wan
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: WanI2VRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the video as it is made. Frames are numbered from 0, and those that are known are left out."""
        request = completed(request, self._settings.defaults)
        if known.again:
            await stop_everywhere(self._wan, known.key, self._transport)
        first = await self._media.picture(request.image)
        last = await self._media.picture(request.last_image) if request.last_image else None
        yield Fact("frames_total", request.num_frames)
        call = stream(self._wan, "generate", wan_request(request, request.prompt), first, last, known.frames, known.key)
        async with opened(call, self._transport) as items:
            async for item in items:
                yield item


def frames_lasting(seconds: float, rate: float) -> int:
    """How many frames, 4k + 1, last about so long."""
    return 1 + 4 * max(1, round(seconds * rate / 4))


def wan_request(request: Sampling, prompt: str) -> WanRequest:
    """The part of a graph's request that is Wan's."""
    fields = {name: getattr(request, name) for name in Sampling.model_fields}
    return WanRequest(**fields, prompt=prompt)
