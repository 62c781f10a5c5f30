"""The full pipeline: paint (Flux) → restyle (HunyuanDiT) → animate (Stable Video Diffusion) → upscale (Real-ESRGAN)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, TypeVar

import numpy as np

from composition.graphs.calls import (
    Call,
    Models,
    Transport,
    call_in_order,
    merge_streams,
    open_stream,
    stop_everywhere,
    stream,
)
from composition.graphs.face_pose import PHOTO
from composition.graphs.faces import find_face, find_pose, read_identity
from composition.graphs.fields import complete_request
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
"""Frames that are upscaled in one call: few, so that the first are ready early and several replicas share the work."""


@dataclass(frozen=True)
class PipelinePlan:
    """A checked request with all defaults resolved, and the progress of an earlier attempt."""

    request: FullPipelineRequest
    known: Known
    seed: int


class FullPipeline:
    """The graph.

    Args:
        models: handles by role: `text-to-image`, and the roles of ROLES for which a model is served.
        settings: the graph's configuration.
        transport: the exceptions of the calls.
    """

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._models = models
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: FullPipelineRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the pictures, the frames of the video one by one, and the upscaled frames as Results named `hd`.

        Known pictures are not painted again, and the animation runs again only if frames are missing.
        """
        request = complete_request(request, self._settings.defaults).drop_unserved(self._models)
        if known.is_retry:
            for handle in self._models.values():
                await stop_everywhere(handle, known.key, self._transport)
        plan = PipelinePlan(request, known, draw_seed(request.seed))
        yield Fact("seed", plan.seed)
        picture: Frames | None = None
        async with aclosing(self._make_picture(plan)) as items:
            async for item in items:
                if isinstance(item, Result) and item.name == IMAGE:
                    picture = item.frames
                    if IMAGE in known.picture_urls:
                        continue
                yield item
        if picture is None:
            raise ModelFailed("the model returned no picture")
        rest = self._upscale_picture(plan, picture) if request.animate is None else self._make_videos(plan, picture)
        async with aclosing(rest) as items:
            async for item in items:
                yield item

    async def _make_picture(self, plan: PipelinePlan) -> AsyncGenerator[Item]:
        """Yield progress, and finally the picture as the Result `image`."""
        request, pictures = plan.request, plan.known.picture_urls
        if IMAGE in pictures:
            yield Result(IMAGE, await self._media.read_stored(pictures[IMAGE]), still=True)
            return
        name = IMAGE if request.restyle is None else PAINTED
        if name in pictures:
            picture = await self._media.read_stored(pictures[name])
        else:
            picture = None
            async with aclosing(self._paint(plan)) as items:
                async for item in items:
                    if isinstance(item, Frames):
                        picture = item
                    else:
                        yield item
            if picture is not None:  # complete when its stage is done
                yield Result(name, picture, still=True)
        if request.restyle is None or picture is None:
            return
        restyled: Frames | None = None
        restyle = _with_seed(request.restyle, plan.seed)
        call = stream(self._models.restyle, Restyle[RestyleRequest].restyle, restyle, picture, plan.known.key)
        async with aclosing(self._rename_items(call, "restyle", "restyle")) as items:
            async for item in items:
                if isinstance(item, Frames):
                    restyled = item
                else:
                    yield item
        if restyled is not None:
            yield Result(IMAGE, restyled, still=True)

    async def _paint(self, plan: PipelinePlan) -> AsyncGenerator[Item]:
        request, key = plan.request, plan.known.key
        face: Face | None = read_identity(request.identity) if request.identity else None
        if request.face is not None:
            yield Progress("face", 0, 1)
            image = await self._media.read_picture(request.face, plan.known.owner)
            face, other_items = await find_face(self._models.face, image, self._transport, key)
            for item in other_items:
                yield item
        pose = face if request.face_pose == PHOTO else None
        if request.pose_picture is not None:
            image = await self._media.read_picture(request.pose_picture, plan.known.owner)
            pose, other_items = await find_pose(self._models.face, image, self._transport, key)
            for item in other_items:
                yield item
        fields: dict[str, Any] = {name: getattr(request, name) for name in Painting.model_fields}
        painting = FluxRequest.model_validate({**fields, "prompt": request.prompt, "seed": plan.seed})
        painter = self._models.text_to_image.prefer(painting.lora_set)
        call = stream(painter, TextToImage[FluxRequest].generate_image, painting, face, key, pose)
        async with aclosing(self._rename_items(call, "paint", "image")) as items:
            async for item in items:
                yield item

    async def _upscale_picture(self, plan: PipelinePlan, picture: Frames) -> AsyncGenerator[Item]:
        if plan.request.upscale is None or HD in plan.known.picture_urls:
            return
        yield Progress("upscale", 0, 1)
        large, done = await upscale_run(self._models.upscale, plan.request.upscale, picture, self._transport)
        yield done
        yield Result(HD, large, still=True)

    async def _make_videos(self, plan: PipelinePlan, picture: Frames) -> AsyncGenerator[Item]:
        """Yield the frames of the animation and, concurrently, the upscaled frames."""
        animate, upscale = plan.request.animate, plan.request.upscale
        if animate is None:
            return
        yield Fact("frames_total", animate.num_frames)
        queue: asyncio.Queue[Frames | None] = asyncio.Queue()
        sources = [self._animate(plan, animate, picture, queue)]
        if upscale is not None:
            sources.append(self._upscale(plan, animate, upscale, queue))
        async with aclosing(merge_streams(*sources)) as items:
            async for item in items:
                yield item

    async def _animate(
        self, plan: PipelinePlan, animate: SvdRequest, picture: Frames, queue: asyncio.Queue[Frames | None]
    ) -> AsyncGenerator[Item]:
        """Yield the frames that are not stored yet, and also put them into the queue; None marks the end.

        The last frame follows the end of the stage, because the video is complete with it.
        """
        known = plan.known
        last: Frames | None = None
        if known.frames < animate.num_frames:
            animation = _with_seed(animate, plan.seed)
            animate_picture = ImageToVideo[SvdRequest].animate
            call = stream(
                self._models.image_to_video, animate_picture, animation, picture, start=known.frames, key=known.key
            )
            async with aclosing(self._rename_items(call, "animate", "video")) as items:
                async for item in items:
                    if isinstance(item, Frames):
                        for frame in item.split():
                            if frame.stop < animate.num_frames:
                                queue.put_nowait(frame)
                                yield frame
                            else:
                                last = frame
                    elif not (isinstance(item, Progress) and item.stage not in plan.request.active_stages):
                        yield item
        if last is not None:
            queue.put_nowait(last)
            yield last
        queue.put_nowait(None)

    async def _upscale(
        self, plan: PipelinePlan, animate: SvdRequest, upscale: UpscaleRequest, queue: asyncio.Queue[Frames | None]
    ) -> AsyncGenerator[Item]:
        """Yield the upscaled frames that are not stored yet, in order."""
        stages = Stages(animate.num_frames)

        async def calls() -> AsyncGenerator[Callable[[], Awaitable[tuple[Frames, StageDone]]]]:
            batch: list[Frames] = []
            async with aclosing(self._frames_to_upscale(plan, animate, queue)) as frames:
                async for frame in frames:
                    batch.append(frame)
                    if frame.stop % RUN == 0 or frame.stop == animate.num_frames:
                        run = Frames(np.concatenate([each.pixels for each in batch]), batch[0].first, frame.rate)
                        yield partial(upscale_run, self._models.upscale, upscale, run, self._transport)
                        batch = []

        async with aclosing(call_in_order(calls(), WINDOW)) as results:
            async for run, done in results:
                stages.add(done)
                if stages.add(run):
                    yield Result(HD, run)
                    yield Progress("upscale", run.stop, animate.num_frames)
        for item in stages.finish():
            yield Result(HD, item) if isinstance(item, Frames) else item
        yield Progress("upscale", animate.num_frames, animate.num_frames)

    async def _frames_to_upscale(
        self, plan: PipelinePlan, animate: SvdRequest, queue: asyncio.Queue[Frames | None]
    ) -> AsyncGenerator[Frames]:
        """Yield the frames that must be upscaled: stored ones first, then those of the queue.

        The first one is the start of a batch, because the last bits of an upscaled frame can depend on its batch.
        """
        known = plan.known
        first = min(known.other_frames.get(HD, 0), known.frames) // RUN * RUN
        for number in range(first, known.frames):
            frame = await self._media.read_stored(known.frame_urls[number])
            yield Frames(frame.pixels, number, Fraction(animate.fps))
        while (frame := await queue.get()) is not None:
            yield frame

    async def _rename_items(self, call: Call[Item], stage: str, size: str) -> AsyncGenerator[Item]:
        """Yield the items of a service, with stages and facts renamed to those of this graph."""
        async with open_stream(call, self._transport) as items:
            async for item in items:
                match item:
                    case Progress(stage="denoise"):
                        yield replace(item, stage=stage)
                    case Fact(name="seed"):
                        pass
                    case Fact(name="size" | "canvas"):
                        yield Fact(f"{size}_{item.name}", item.value)
                    case _:
                        yield item


Seeded = TypeVar("Seeded", RestyleRequest, SvdRequest)


def _with_seed(stage: Seeded, seed: int) -> Seeded:
    """Return the stage with `seed`, unless it has its own."""
    return stage.model_copy(update={"seed": seed}) if stage.seed < 0 else stage
