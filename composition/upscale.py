"""Real-ESRGAN alone: a video → the same one, larger. Several replicas work on it at once."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from pydantic import model_validator

from composition.calls import Handle, Transport, in_order, opened, stream
from composition.graph import IMAGE, NOTHING_KNOWN, GraphRequest, GraphSettings, Known, Media, Stages, completed
from composition.store import VIDEO
from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, Progress, Result, StageDone
from services.realesrgan.request import UpscaleRequest

WINDOW = 3
"""Runs under way at a time."""


class VideoUpscaleRequest(GraphRequest, UpscaleRequest):
    """Video to larger video, or picture to larger picture."""

    MEDIA = {"input_video": "video", "image": "image"}  # noqa: RUF012
    REFERENCE = "input_video"
    STAGES = {"upscale": 1.0}  # noqa: RUF012

    input_video: str | None = None
    """What to enlarge. A picture is taken for a video of one frame."""
    image: str | None = None
    """A picture to enlarge: the result is `image`, a picture, and no video."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "VideoUpscaleRequest":
        if (self.input_video is None) == (self.image is None):
            raise InvalidParameter("input_video: give either this or image", param="input_video")
        return self

    @property
    def main(self) -> str:
        return VIDEO if self.image is None else IMAGE

    @classmethod
    def makes(cls, params: Mapping[str, Any]) -> set[str]:
        return {VIDEO} if params.get("image") is None else set()


class Upscale:
    """The graph of one stage."""

    def __init__(self, realesrgan: Handle, settings: GraphSettings, transport: Transport) -> None:
        self._realesrgan = realesrgan
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: VideoUpscaleRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the frames in their order, or the picture. What is known is left out."""
        request = completed(request, self._settings.defaults)
        asked = UpscaleRequest(scale=request.scale)
        if request.image is not None:
            if IMAGE not in known.pictures:
                yield Progress("upscale", 0, 1)
                picture = await self._media.picture(request.image)
                large, done = await upscaled(self._realesrgan, asked, picture, self._transport)
                yield Result(IMAGE, large, still=True)
                yield done
            return
        async with aclosing(self._video(asked, request.input_video or "", known)) as items:
            async for item in items:
                yield item

    async def _video(self, asked: UpscaleRequest, url: str, known: Known) -> AsyncGenerator[Item]:
        stages = Stages()
        made = known.frames
        async with self._media.opened(url) as video:
            yield Fact("frames_total", video.facts.frames)
            async with aclosing(self._upscaled(asked, video.runs(known.frames))) as results:
                async for frames, done in results:
                    yield frames
                    made = frames.stop
                    stages.passes(done)
                    yield Progress("upscale", made, max(made, video.facts.frames))
            if video.facts.damaged:  # only now does it know
                yield Fact("degraded", f"input_video: {video.facts.damaged}")
        yield Fact("frames_total", made)
        for stage in stages.done():
            yield stage

    async def _upscaled(
        self, request: UpscaleRequest, runs: AsyncGenerator[Frames]
    ) -> AsyncGenerator[tuple[Frames, StageDone]]:
        async def calls() -> AsyncGenerator[Callable[[], Awaitable[tuple[Frames, StageDone]]]]:
            async with aclosing(runs):
                async for run in runs:
                    yield partial(upscaled, self._realesrgan, request, run, self._transport)

        async with aclosing(in_order(calls(), WINDOW)) as results:
            async for result in results:
                yield result


async def upscaled(
    realesrgan: Handle, request: UpscaleRequest, run: Frames, transport: Transport
) -> tuple[Frames, StageDone]:
    """Enlarge one run, on whichever replica is free; leaving it stops the work before its next tile."""
    found: list[Item] = []
    async with opened(stream(realesrgan, "upscale", request, run), transport) as items:
        found += [item async for item in items]
    (frames,) = (item for item in found if isinstance(item, Frames))
    (done,) = (item for item in found if isinstance(item, StageDone))
    return frames, done
