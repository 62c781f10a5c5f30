"""Real-ESRGAN alone: a video → the same one, larger. Several replicas work on it at once."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from composition.calls import Handle, Transport, in_order, opened, stream
from composition.graph import NOTHING_KNOWN, GraphRequest, GraphSettings, Known, Media, Stages, completed
from services.frames import Fact, Frames, Item, Progress, StageDone
from services.realesrgan.request import UpscaleRequest

WINDOW = 3
"""Runs under way at a time."""


class VideoUpscaleRequest(GraphRequest, UpscaleRequest):
    """Video to larger video."""

    MEDIA = {"input_video": "video"}  # noqa: RUF012
    REFERENCE = "input_video"
    STAGES = {"upscale": 1.0}  # noqa: RUF012

    input_video: str
    """What to enlarge. A picture is taken for a video of one frame."""


class Upscale:
    """The graph of one stage."""

    def __init__(self, realesrgan: Handle, settings: GraphSettings, transport: Transport) -> None:
        self._realesrgan = realesrgan
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: VideoUpscaleRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the frames in their order. Those that are known are left out."""
        request = completed(request, self._settings.defaults)
        stages = Stages()
        made = known.frames
        async with self._media.opened(request.input_video) as video:
            yield Fact("frames_total", video.facts.frames)
            async with aclosing(
                self._upscaled(UpscaleRequest(scale=request.scale), video.runs(known.frames))
            ) as results:
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
