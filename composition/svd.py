"""Stable Video Diffusion alone: a picture → a video that begins with it."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from composition.calls import Handle, Transport, opened, stop_everywhere, stream
from composition.graph import NOTHING_KNOWN, GraphRequest, GraphSettings, Known, Media, completed, told_rate
from services.frames import Fact, Item
from services.svd.request import SvdRequest


class AnimateRequest(GraphRequest, SvdRequest):
    """Picture to video."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"
    STAGES = {"denoise": 0.85, "decode": 0.15}  # noqa: RUF012

    image: str
    """What to animate."""

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        del rate
        return {**fields, "num_frames": max(2, round(seconds * told_rate(fields, SvdRequest)))}


class Animate:
    """The graph of one stage."""

    def __init__(self, svd: Handle, settings: GraphSettings, transport: Transport) -> None:
        self._svd = svd
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: AnimateRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the video as it is made. Frames are numbered from 0, and those that are known are left out."""
        request = completed(request, self._settings.defaults)
        if known.again:
            await stop_everywhere(self._svd, known.key, self._transport)
        image = await self._media.picture(request.image)
        yield Fact("frames_total", request.num_frames)
        asked = SvdRequest(**{name: getattr(request, name) for name in SvdRequest.model_fields})
        call = stream(self._svd, "animate", asked, image, known.frames, known.key)
        async with opened(call, self._transport) as items:
            async for item in items:
                yield item
