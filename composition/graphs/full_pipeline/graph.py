"""The full pipeline: a prompt, and perhaps a face → Flux → HunyuanDiT → Stable Video Diffusion → Real-ESRGAN."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, TypeVar

import numpy as np

from composition.graphs.calls import Call, Models, Transport, in_order, merged, opened, stop_everywhere, stream
from composition.graphs.faces import find_face, read_identity
from composition.graphs.fields import completed
from composition.graphs.full_pipeline.request import HD, PAINTED, FullPipelineRequest
from composition.graphs.inputs import Media
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known, Stages
from composition.graphs.single.graph import WINDOW, upscale_run
from composition.variants import IMAGE
from services.errors import ModelFailed
from services.flux.request import FluxRequest, Painting
from services.frames import Face, Fact, Frames, Item, Progress, Result, StageDone
from services.hunyuan_dit.request import RestyleRequest
from services.limits import draw_seed
from services.realesrgan.request import UpscaleRequest
from services.roles import ImageToVideo, Restyle, TextToImage
from services.svd.request import SvdRequest

RUN = 4
"""Frames that are enlarged together: few, so that the first are there early and several replicas have work."""


@dataclass(frozen=True)
class Take:
    """One run, with everything decided that was left open."""

    request: FullPipelineRequest
    known: Known
    seed: int


class FullPipeline:
    """The graph.

    Args:
        models: `text-to-image`, and those of ROLES that are served.
        settings: what the configuration says.
        transport: the exceptions of the calls.
    """

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._models = models
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: FullPipelineRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the pictures and the videos as they are made.

        The plain frames are Stable Video Diffusion's, one by one; the enlarged ones are Results named `hd`. A picture
        that is known is not painted again, nor is a frame that is kept made again once all of them are.
        """
        request = completed(request, self._settings.defaults).drop_unserved(self._models)
        if known.again:
            for handle in self._models.values():
                await stop_everywhere(handle, known.key, self._transport)
        take = Take(request, known, draw_seed(request.seed))
        yield Fact("seed", take.seed)
        picture: Frames | None = None
        async with aclosing(self._pictured(take)) as items:
            async for item in items:
                if isinstance(item, Result) and item.name == IMAGE:
                    picture = item.frames
                    if IMAGE in known.pictures:
                        continue
                yield item
        if picture is None:
            raise ModelFailed("the model made no picture")
        rest = self._enlarged_picture(take, picture) if request.animate is None else self._moving(take, picture)
        async with aclosing(rest) as items:
            async for item in items:
                yield item

    async def _pictured(self, take: Take) -> AsyncGenerator[Item]:
        """Yield how the picture is made, and at last the picture, the Result `image`."""
        request, pictures = take.request, take.known.pictures
        if IMAGE in pictures:
            yield Result(IMAGE, await self._media.own(pictures[IMAGE]), still=True)
            return
        name = IMAGE if request.restyle is None else PAINTED
        if name in pictures:
            picture = await self._media.own(pictures[name])
        else:
            picture = None
            async with aclosing(self._painted(take)) as items:
                async for item in items:
                    if isinstance(item, Frames):
                        picture = item
                        yield Result(name, item, still=True)
                    else:
                        yield item
        if request.restyle is None or picture is None:
            return
        asked = _seeded(request.restyle, take.seed)
        call = stream(self._models.restyle, Restyle[RestyleRequest].restyle, asked, picture, take.known.key)
        async with aclosing(self._said(call, "restyle", "restyle")) as items:
            async for item in items:
                yield Result(IMAGE, item, still=True) if isinstance(item, Frames) else item

    async def _painted(self, take: Take) -> AsyncGenerator[Item]:
        request, key = take.request, take.known.key
        face: Face | None = read_identity(request.identity) if request.identity else None
        if request.face is not None:
            yield Progress("face", 0, 1)
            image = await self._media.picture(request.face)
            face, told = await find_face(self._models.face, image, self._transport, key)
            for item in told:
                yield item
        fields: dict[str, Any] = {name: getattr(request, name) for name in Painting.model_fields}
        asked = FluxRequest.model_validate({**fields, "prompt": request.prompt, "seed": take.seed})
        painter = self._models.text_to_image.prefer(asked.lora_set)
        call = stream(painter, TextToImage[FluxRequest].generate_image, asked, face, key)
        async with aclosing(self._said(call, "paint", "image")) as items:
            async for item in items:
                yield item

    async def _enlarged_picture(self, take: Take, picture: Frames) -> AsyncGenerator[Item]:
        if take.request.upscale is None or HD in take.known.pictures:
            return
        yield Progress("upscale", 0, 1)
        large, done = await upscale_run(self._models.upscale, take.request.upscale, picture, self._transport)
        yield Result(HD, large, still=True)
        yield done

    async def _moving(self, take: Take, picture: Frames) -> AsyncGenerator[Item]:
        """Yield the frames of the picture that moves, and beside them the enlarged ones."""
        animate, upscale = take.request.animate, take.request.upscale
        if animate is None:
            return
        yield Fact("frames_total", animate.num_frames)
        passing: asyncio.Queue[Frames | None] = asyncio.Queue()
        sources = [self._filmed(take, animate, picture, passing)]
        if upscale is not None:
            sources.append(self._enlarged(take, animate, upscale, passing))
        async with aclosing(merged(*sources)) as items:
            async for item in items:
                yield item

    async def _filmed(
        self, take: Take, animate: SvdRequest, picture: Frames, passing: asyncio.Queue[Frames | None]
    ) -> AsyncGenerator[Item]:
        """Yield the frames that are not kept yet, and pass them on as they come."""
        known = take.known
        if known.frames < animate.num_frames:
            asked = _seeded(animate, take.seed)
            animate_picture = ImageToVideo[SvdRequest].animate
            call = stream(
                self._models.image_to_video, animate_picture, asked, picture, start=known.frames, key=known.key
            )
            async with aclosing(self._said(call, "animate", "video")) as items:
                async for item in items:
                    if isinstance(item, Frames):
                        for number, pixels in enumerate(item.pixels, item.first):
                            frame = Frames(np.ascontiguousarray(pixels)[None], number, item.rate)
                            passing.put_nowait(frame)
                            yield frame
                    elif not (isinstance(item, Progress) and item.stage not in take.request.shares):
                        yield item
        passing.put_nowait(None)

    async def _enlarged(
        self, take: Take, animate: SvdRequest, upscale: UpscaleRequest, passing: asyncio.Queue[Frames | None]
    ) -> AsyncGenerator[Item]:
        """Yield the enlarged frames behind those that are safe, in their order."""
        stages = Stages()

        async def calls() -> AsyncGenerator[Callable[[], Awaitable[tuple[Frames, StageDone]]]]:
            held: list[Frames] = []
            async with aclosing(self._clip(take, animate, passing)) as frames:
                async for frame in frames:
                    held.append(frame)
                    if frame.stop % RUN == 0 or frame.stop == animate.num_frames:
                        run = Frames(np.concatenate([each.pixels for each in held]), held[0].first, frame.rate)
                        yield partial(upscale_run, self._models.upscale, upscale, run, self._transport)
                        held = []

        async with aclosing(in_order(calls(), WINDOW)) as results:
            async for run, done in results:
                stages.passes(done)
                yield Result(HD, run)
                yield Progress("upscale", run.stop, animate.num_frames)
        for stage in stages.done():
            yield stage

    async def _clip(
        self, take: Take, animate: SvdRequest, passing: asyncio.Queue[Frames | None]
    ) -> AsyncGenerator[Frames]:
        """Yield the frames that are still to be enlarged: those that are kept, then those that come.

        They begin where a run begins: what a net makes of a frame can depend, in its last bits, on those beside it.
        """
        known = take.known
        first = min(known.others.get(HD, 0), known.frames) // RUN * RUN
        for number in range(first, known.frames):
            frame = await self._media.own(known.kept[number])
            yield Frames(frame.pixels, number, Fraction(animate.fps))
        while (frame := await passing.get()) is not None:
            yield frame

    async def _said(self, call: Call[Item], stage: str, size: str) -> AsyncGenerator[Item]:
        """Yield a service's items under the names that they have here."""
        async with opened(call, self._transport) as items:
            async for item in items:
                match item:
                    case Progress(stage="denoise"):
                        yield replace(item, stage=stage)
                    case Fact(name="seed"):
                        pass
                    case Fact(name="size"):
                        yield Fact(f"{size}_size", item.value)
                    case _:
                        yield item


Seeded = TypeVar("Seeded", RestyleRequest, SvdRequest)


def _seeded(stage: Seeded, seed: int) -> Seeded:
    """A stage that has no seed of its own has that of the whole."""
    return stage.model_copy(update={"seed": seed}) if stage.seed < 0 else stage
