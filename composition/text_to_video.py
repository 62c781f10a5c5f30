"""ModelScope's text-to-video alone: a text → a video of what it says."""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from composition.calls import Handle, Transport, opened, stop_everywhere, stream
from composition.graph import NOTHING_KNOWN, GraphRequest, GraphSettings, Known, completed, told_rate
from services.frames import Fact, Item
from services.limits import MAX_TEXT
from services.text_to_video.request import Filming, TextToVideoRequest


class FilmRequest(GraphRequest, Filming):
    """Text to video."""

    STAGES = {"denoise": 0.85, "decode": 0.15}  # noqa: RUF012

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """What to show, in English."""

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        del rate
        return {**fields, "num_frames": max(2, round(seconds * told_rate(fields, Filming)))}


class Film:
    """The graph of one stage."""

    def __init__(self, text_to_video: Handle, settings: GraphSettings, transport: Transport) -> None:
        self._text_to_video = text_to_video
        self._settings = settings
        self._transport = transport

    async def run(self, request: FilmRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the video as it is made. Frames are numbered from 0, and those that are known are left out."""
        request = completed(request, self._settings.defaults)
        if known.again:
            await stop_everywhere(self._text_to_video, known.key, self._transport)
        yield Fact("frames_total", request.num_frames)
        asked = TextToVideoRequest(**{name: getattr(request, name) for name in TextToVideoRequest.model_fields})
        call = stream(self._text_to_video, "film", asked, known.frames, known.key)
        async with opened(call, self._transport) as items:
            async for item in items:
                yield item
