"""Jobs of a single model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, cast

import numpy as np
from pydantic import BaseModel

from composition.graphs.calls import (
    Call,
    Handle,
    Models,
    Transport,
    call_in_order,
    open_stream,
    stop_everywhere,
    stream,
)
from composition.graphs.fields import complete_request, select_fields
from composition.graphs.inputs import Media, report_reading
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known, Stages
from composition.graphs.single.request import (
    AnimationJob,
    ClipJob,
    EditJob,
    PictureJob,
    RepaintJob,
    SingleRequest,
    UpscaleJob,
)
from composition.media.transparency import fill_transparent, limit_alpha
from composition.variants import IMAGE
from services.errors import ModelFailed
from services.frames import Fact, Frames, Item, Pixels, Progress, Result, Sound, StageDone
from services.realesrgan.request import UpscaleRequest
from services.roles import GuidedEdit, ImageToVideo, Restyle, TextToImage, TextToVideo, Upscale

WINDOW = 3
"""Maximum number of concurrent upscaling calls of a job."""


class Single:
    """The graph that runs a single model.

    Args:
        models: handles of one model, by each of its roles.
        settings: the graph's configuration.
        transport: the exceptions of the calls.
    """

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._models = models
        self._model = next(iter(models.values()))
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: SingleRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the items of the model, except what is known. Frames are numbered from 0."""
        request = complete_request(request, self._settings.defaults).drop_unserved(self._models)
        if known.is_retry and not isinstance(request, UpscaleJob):  # its calls are short and have no key
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
        pictures = await self._read_pictures(request, known.owner)
        yield Fact("frames_total", cast("Any", request).num_frames)
        call = self._call_video(request, pictures, known)
        async with open_stream(call, self._transport) as items:
            async for item in items:
                yield item

    async def _picture(self, request: PictureJob, known: Known) -> AsyncGenerator[Item]:
        if IMAGE in known.picture_urls:
            return
        references = await self._read_references(request, known.owner) if isinstance(request, EditJob) else []
        pictures = await self._read_pictures(request, known.owner)
        call = self._call_picture(request, pictures, references, known.key)
        picture: Result | None = None  # complete when its stage is done
        async with open_stream(call, self._transport) as items:
            async for item in items:
                if isinstance(item, Frames):
                    picture = Result(IMAGE, item, still=True)
                else:
                    yield item
        if picture is not None:
            yield picture

    async def _read_pictures(self, request: SingleRequest, owner: str) -> dict[str, Frames]:
        """Read the pictures of the request. The keys are the names of the method's arguments."""
        urls = {name: getattr(request, name) for name, kind in request.MEDIA.items() if kind == "image"}
        return {name: await self._media.read_picture(url, owner) for name, url in urls.items() if url is not None}

    async def _read_references(self, request: EditJob, owner: str) -> list[Frames]:
        """Read the pictures that an edit may refer to, which differ in size."""
        if request.references is None:
            return []
        opening = self._media.open(request.references, owner)
        async with opening as pictures, aclosing(pictures.stream_runs()) as runs:
            return [Frames(np.ascontiguousarray(pixels)[None]) async for run in runs for pixels in run.pixels]

    def _call_video(self, request: SingleRequest, pictures: Mapping[str, Frames], known: Known) -> Call[Item]:
        fields = self._select(request)
        if isinstance(request, AnimationJob) or (isinstance(request, ClipJob) and request.image is not None):
            image, last = pictures["image"], pictures.get("last_image")
            animate = ImageToVideo[BaseModel].animate
            animator = self._models.image_to_video.prefer(_read_lora_set(fields))
            return stream(animator, animate, fields, image, last, known.frames, known.key)
        generate = TextToVideo[BaseModel].generate_video
        filmer = self._models.text_to_video.prefer(_read_lora_set(fields))
        return stream(filmer, generate, fields, known.frames, known.key)

    def _call_picture(
        self, request: PictureJob, pictures: Mapping[str, Frames], references: Sequence[Frames], key: str
    ) -> Call[Item]:
        fields = self._select(request)
        if isinstance(request, EditJob):
            image, edges = pictures["image"], pictures.get("edges")
            edit = GuidedEdit[BaseModel].edit
            editor = self._models.guided_edit.prefer(_read_lora_set(fields))
            return stream(editor, edit, fields, image, edges, key=key, references=references)
        if isinstance(request, RepaintJob):
            return stream(self._models.restyle, Restyle[BaseModel].restyle, fields, pictures["image"], key)
        painter = self._models.text_to_image.prefer(_read_lora_set(fields))
        return stream(painter, TextToImage[BaseModel].generate_image, fields, key=key)

    def _select(self, request: SingleRequest) -> BaseModel:
        """Return the fields of the model's own request."""
        offer = request.offer
        if offer.request is None:
            raise ModelFailed(f"{offer.role}: models of this role cannot run jobs")
        return select_fields(offer.request, request)


class Upscaling:
    """Upscales a picture or a video. Several replicas share the frames of a video."""

    def __init__(self, model: Handle[Upscale[UpscaleRequest]], media: Media, transport: Transport) -> None:
        self._model = model
        self._media = media
        self._transport = transport

    async def run(self, request: UpscaleJob, known: Known) -> AsyncGenerator[Item]:
        """Yield the frames in order, or the picture."""
        upscale = select_fields(UpscaleRequest, request)
        if request.image is None:
            async with aclosing(self._video(upscale, request.input_video or "", known)) as items:
                async for item in items:
                    yield item
        elif IMAGE not in known.picture_urls:
            async with aclosing(self._picture(upscale, request, known.owner)) as items:
                async for item in items:
                    yield item

    async def _picture(self, upscale: UpscaleRequest, request: UpscaleJob, owner: str) -> AsyncGenerator[Item]:
        """Yield the upscaled picture. The opacity of a transparent picture is upscaled like a grey picture."""
        picture, alpha = await self._read_picture(request, owner)
        parts = 1 if alpha is None else 2
        yield Progress("upscale", 0, parts)
        stages = Stages()
        if alpha is not None:
            filled = await asyncio.to_thread(fill_transparent, picture.pixels[0], _read_opacity(alpha))
            picture = Frames(filled[None], picture.first, picture.rate)
        large, done = await upscale_run(self._model, upscale, picture, self._transport)
        stages.add(done)
        large_alpha: Frames | None = None
        if alpha is not None:
            yield Progress("upscale", 1, parts)
            grey, done = await upscale_run(self._model, upscale, alpha, self._transport)
            stages.add(done)
            limited = await asyncio.to_thread(limit_alpha, _read_opacity(grey), _read_opacity(alpha))
            large_alpha = Frames(np.repeat(limited[None, ..., None], 3, 3))
        yield Progress("upscale", parts, parts)
        for stage in stages.list_done():
            yield stage
        yield Result(IMAGE, large, still=True, alpha=large_alpha)

    async def _read_picture(self, request: UpscaleJob, owner: str) -> tuple[Frames, Frames | None]:
        """Read the colours and the opacity; None if the picture is opaque, or shown on a background."""
        if request.background is not None:
            return await self._media.read_picture(request.image or "", owner), None
        return await self._media.read_picture_with_alpha(request.image or "", owner)

    async def _video(self, upscale: UpscaleRequest, url: str, known: Known) -> AsyncGenerator[Item]:
        count = known.frames
        async with self._media.open(url, known.owner) as video:
            stages = Stages(video.facts.frames)
            yield Fact("frames_total", video.facts.frames)
            if video.facts.sound is not None:
                yield Sound(url)
            async with aclosing(self._runs(upscale, video.stream_runs(known.frames))) as results:
                async for frames, done in results:
                    count = frames.stop
                    stages.add(done)
                    if stages.add(frames):
                        yield frames
                        yield Progress("upscale", count, max(count, video.facts.frames))
            for fact in report_reading("input_video", video.facts):
                yield fact
        yield Fact("frames_total", count)
        for item in stages.finish():
            yield item
        yield Progress("upscale", count, count)

    async def _runs(
        self, request: UpscaleRequest, runs: AsyncGenerator[Frames]
    ) -> AsyncGenerator[tuple[Frames, StageDone]]:
        async def calls() -> AsyncGenerator[Callable[[], Awaitable[tuple[Frames, StageDone]]]]:
            async with aclosing(runs):
                async for run in runs:
                    yield partial(upscale_run, self._model, request, run, self._transport)

        async with aclosing(call_in_order(calls(), WINDOW)) as results:
            async for result in results:
                yield result


def _read_lora_set(fields: BaseModel) -> str:
    """Return the LoRAs by which a call is routed; empty if the model's requests have none."""
    return getattr(fields, "lora_set", "")


def _read_opacity(alpha: Frames) -> Pixels:
    """Return the opacity, (h, w) uint8, in a frame that is grey, or nearly so."""
    return ((alpha.pixels[0].sum(2, dtype=np.uint16) + 1) // 3).astype(np.uint8)


async def upscale_run(
    model: Handle[Upscale[UpscaleRequest]], request: UpscaleRequest, run: Frames, transport: Transport
) -> tuple[Frames, StageDone]:
    """Upscale one run on any free replica. Cancellation stops the work before the next tile."""
    found: list[Item] = []
    async with open_stream(stream(model, Upscale[UpscaleRequest].upscale, request, run), transport) as items:
        found += [item async for item in items]
    (frames,) = (item for item in found if isinstance(item, Frames))
    (done,) = (item for item in found if isinstance(item, StageDone))
    return frames, done
