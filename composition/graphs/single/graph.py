"""Jobs of a model alone: what its role takes and gives makes the graph."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from pydantic import BaseModel

from composition.graphs.calls import Call, Handle, Models, Transport, in_order, opened, stop_everywhere, stream
from composition.graphs.fields import completed, select_fields
from composition.graphs.inputs import Media
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known, Stages
from composition.graphs.single.request import AnimationJob, EditJob, PictureJob, RepaintJob, SingleRequest, UpscaleJob
from composition.variants import IMAGE
from services.errors import ModelFailed
from services.frames import Fact, Frames, Item, Progress, Result, StageDone
from services.realesrgan.request import UpscaleRequest
from services.roles import GuidedEdit, ImageToVideo, Restyle, TextToImage, TextToVideo, Upscale

WINDOW = 3
"""Runs that are enlarged at a time."""


class Single:
    """The graph of one model.

    Args:
        models: the model, by the role that the request's class offers.
        settings: what the configuration says.
        transport: the exceptions of the calls.
    """

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._models = models
        (self._model,) = models.values()
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: SingleRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield what the model makes. Frames are numbered from 0, and what is known is left out."""
        request = completed(request, self._settings.defaults)
        if known.again and not isinstance(request, UpscaleJob):  # whose calls are many and short, and have no key
            await stop_everywhere(self._model, known.key, self._transport)
        if isinstance(request, UpscaleJob):
            items = Upscaling(self._models.upscale, self._media, self._transport).run(request, known)
        elif isinstance(request, PictureJob):
            items = self._picture(request, known)
        else:
            items = self._video(request, known)
        async with aclosing(items):
            async for item in items:
                yield item

    async def _video(self, request: SingleRequest, known: Known) -> AsyncGenerator[Item]:
        pictures = await self._pictures(request)
        yield Fact("frames_total", cast("Any", request).num_frames)
        call = self._film(request, pictures, known)
        async with opened(call, self._transport) as items:
            async for item in items:
                yield item

    async def _picture(self, request: PictureJob, known: Known) -> AsyncGenerator[Item]:
        if IMAGE in known.pictures:
            return
        call = self._paint(request, await self._pictures(request), known.key)
        async with opened(call, self._transport) as items:
            async for item in items:
                yield Result(IMAGE, item, still=True) if isinstance(item, Frames) else item

    async def _pictures(self, request: SingleRequest) -> dict[str, Frames]:
        """Open the pictures that the request names, by the argument that they are of the model's method."""
        urls = {name: getattr(request, name) for name in request.MEDIA}
        return {name: await self._media.picture(url) for name, url in urls.items() if url is not None}

    def _film(self, request: SingleRequest, pictures: Mapping[str, Frames], known: Known) -> Call[Item]:
        asked = self._select(request)
        if isinstance(request, AnimationJob):
            image, last = pictures["image"], pictures.get("last_image")
            animate = ImageToVideo[BaseModel].animate
            return stream(self._models.image_to_video, animate, asked, image, last, known.frames, known.key)
        return stream(self._models.text_to_video, TextToVideo[BaseModel].generate_video, asked, known.frames, known.key)

    def _paint(self, request: PictureJob, pictures: Mapping[str, Frames], key: str) -> Call[Item]:
        asked = self._select(request)
        if isinstance(request, EditJob):
            image, edges = pictures["image"], pictures.get("edges")
            return stream(self._models.guided_edit, GuidedEdit[BaseModel].edit, asked, image, edges, key=key)
        if isinstance(request, RepaintJob):
            return stream(self._models.restyle, Restyle[BaseModel].restyle, asked, pictures["image"], key)
        painter = self._models.text_to_image.prefer(getattr(asked, "lora_set", ""))
        return stream(painter, TextToImage[BaseModel].generate_image, asked, key=key)

    def _select(self, request: SingleRequest) -> BaseModel:
        """Return the fields of the model's own request."""
        if request.OFFER.request is None:
            raise ModelFailed(f"{request.OFFER.role}: a model of this role runs no job")
        return select_fields(request.OFFER.request, request)


class Upscaling:
    """Enlarges what a job names. Several replicas work on a video at once."""

    def __init__(self, model: Handle[Upscale[UpscaleRequest]], media: Media, transport: Transport) -> None:
        self._model = model
        self._media = media
        self._transport = transport

    async def run(self, request: UpscaleJob, known: Known) -> AsyncGenerator[Item]:
        """Yield the frames in their order, or the picture."""
        asked = select_fields(UpscaleRequest, request)
        if request.image is None:
            async with aclosing(self._video(asked, request.input_video or "", known)) as items:
                async for item in items:
                    yield item
        elif IMAGE not in known.pictures:
            yield Progress("upscale", 0, 1)
            picture = await self._media.picture(request.image)
            large, done = await upscale_run(self._model, asked, picture, self._transport)
            yield Result(IMAGE, large, still=True)
            yield done

    async def _video(self, asked: UpscaleRequest, url: str, known: Known) -> AsyncGenerator[Item]:
        stages = Stages()
        made = known.frames
        async with self._media.opened(url) as video:
            yield Fact("frames_total", video.facts.frames)
            async with aclosing(self._runs(asked, video.stream_runs(known.frames))) as results:
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

    async def _runs(
        self, request: UpscaleRequest, runs: AsyncGenerator[Frames]
    ) -> AsyncGenerator[tuple[Frames, StageDone]]:
        async def calls() -> AsyncGenerator[Callable[[], Awaitable[tuple[Frames, StageDone]]]]:
            async with aclosing(runs):
                async for run in runs:
                    yield partial(upscale_run, self._model, request, run, self._transport)

        async with aclosing(in_order(calls(), WINDOW)) as results:
            async for result in results:
                yield result


async def upscale_run(
    model: Handle[Upscale[UpscaleRequest]], request: UpscaleRequest, run: Frames, transport: Transport
) -> tuple[Frames, StageDone]:
    """Enlarge one run, on whichever replica is free; leaving it stops the work before its next tile."""
    found: list[Item] = []
    async with opened(stream(model, Upscale[UpscaleRequest].upscale, request, run), transport) as items:
        found += [item async for item in items]
    (frames,) = (item for item in found if isinstance(item, Frames))
    (done,) = (item for item in found if isinstance(item, StageDone))
    return frames, done
