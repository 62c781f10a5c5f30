"""Jobs of a model alone: what its role takes and gives makes the graph."""

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from pydantic import BaseModel, create_model, model_validator

from composition.calls import Handle, Transport, in_order, opened, stop_everywhere, stream
from composition.graph import (
    IMAGE,
    NOTHING_KNOWN,
    Graph,
    GraphRequest,
    GraphSettings,
    Known,
    Media,
    Need,
    Stages,
    completed,
    select_fields,
    told_rate,
)
from composition.store import VIDEO
from services.catalogue import MODELS
from services.errors import InvalidParameter, ModelFailed
from services.frames import Fact, Frames, Item, Progress, Result, StageDone
from services.limits import from_json
from services.model import Model, Offer, Role
from services.realesrgan.request import UpscaleRequest
from services.roles import find_method

NAME = "single"
"""The graph that runs jobs of every model alone."""
WINDOW = 3
"""Runs that are enlarged at a time."""


class SingleRequest(GraphRequest):
    """A job of a model alone."""

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        if "num_frames" not in cls.model_fields:
            return super().lasting(seconds, fields, rate)
        counted: Callable[[float, float], int] | None = getattr(cls, "count_frames", None)
        if counted is not None:
            return {**fields, "num_frames": counted(seconds, rate)}
        shown_at = told_rate(fields, cls) if "fps" in cls.model_fields else rate
        return {**fields, "num_frames": max(2, round(seconds * shown_at))}


class AnimationJob(SingleRequest):
    """Picture to video."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"
    STAGES = {"denoise": 0.85, "decode": 0.15}  # noqa: RUF012

    image: str
    """The first frame."""


class FilmJob(SingleRequest):
    """Text to video."""

    STAGES = {"denoise": 0.85, "decode": 0.15}  # noqa: RUF012


class PictureJob(SingleRequest):
    """Text to picture."""

    STAGES = {"paint": 1.0}  # noqa: RUF012

    @model_validator(mode="after")
    def _one_picture(self) -> "PictureJob":
        count = getattr(self, "n", 1)
        if count != 1:
            raise InvalidParameter(f"n: a job makes one picture, got {count}", param="n")
        return self

    @property
    def main(self) -> str:
        return IMAGE

    @classmethod
    def makes(cls, params: Mapping[str, Any]) -> set[str]:
        del params
        return set()


class RepaintJob(PictureJob):
    """Picture to picture."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"
    STAGES = {"denoise": 1.0}  # noqa: RUF012

    image: str
    """What to paint anew."""


class EditJob(RepaintJob):
    """Picture to edited picture."""

    MEDIA = {"image": "image", "edges": "image"}  # noqa: RUF012

    edges: str | None = None
    """A picture of the edges to follow, white on black."""

    @model_validator(mode="before")
    @classmethod
    def _follow_edges_only_where_given(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cast("dict[str, Any]", values)
        if fields.get("edges") is not None:
            return fields
        if not fields.get("prompt"):
            raise InvalidParameter("prompt: field required where no edges are given", param="prompt")
        try:
            guidance = from_json(fields.get("ttlg", {}))
        except ValueError:  # which is said when the field is read
            return fields
        if isinstance(guidance, Mapping):
            fields = {**fields, "ttlg": {"edge_scale": 0.0, **cast("Mapping[str, Any]", guidance)}}
        return fields


class UpscaleJob(SingleRequest):
    """Video to larger video, or picture to larger picture."""

    MEDIA = {"input_video": "video", "image": "image"}  # noqa: RUF012
    REFERENCE = "input_video"
    STAGES = {"upscale": 1.0}  # noqa: RUF012

    input_video: str | None = None
    """What to enlarge. A picture is taken for a video of one frame."""
    image: str | None = None
    """A picture to enlarge: the result is `image`, a picture, and no video."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "UpscaleJob":
        if (self.input_video is None) == (self.image is None):
            raise InvalidParameter("input_video: give either this or image", param="input_video")
        return self

    @property
    def main(self) -> str:
        return VIDEO if self.image is None else IMAGE

    @classmethod
    def makes(cls, params: Mapping[str, Any]) -> set[str]:
        return {VIDEO} if params.get("image") is None else set()


class Single:
    """The graph of one model.

    Args:
        offer: what the model is asked.
        models: the model, by that role.
        settings: what the configuration says.
        transport: the exceptions of the calls.
    """

    def __init__(
        self, offer: Offer, models: Mapping[Role, Handle], settings: GraphSettings, transport: Transport
    ) -> None:
        self._offer = offer
        self._model = models[offer.role]
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: SingleRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield what the model makes. Frames are numbered from 0, and what is known is left out."""
        request = completed(request, self._settings.defaults)
        if known.again and not isinstance(request, UpscaleJob):  # whose calls are many and short, and have no key
            await stop_everywhere(self._model, known.key, self._transport)
        if isinstance(request, UpscaleJob):
            items = Upscaling(self._model, self._media, self._transport).run(request, known)
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
        call = self._call(request, pictures, start=known.frames, key=known.key)
        async with opened(call, self._transport) as items:
            async for item in items:
                yield item

    async def _picture(self, request: PictureJob, known: Known) -> AsyncGenerator[Item]:
        if IMAGE in known.pictures:
            return
        call = self._call(request, await self._pictures(request), key=known.key)
        async with opened(call, self._transport) as items:
            async for item in items:
                yield Result(IMAGE, item, still=True) if isinstance(item, Frames) else item

    async def _pictures(self, request: SingleRequest) -> dict[str, Frames]:
        """Open the pictures that the request names, by the argument that they are of the model's method."""
        urls = {name: getattr(request, name) for name in request.MEDIA}
        return {name: await self._media.picture(url) for name, url in urls.items() if url is not None}

    def _call(self, request: SingleRequest, pictures: Mapping[str, Frames], **options: Any) -> Any:
        if self._offer.request is None:
            raise ModelFailed(f"{self._offer.role}: a model of this role runs no job")
        asked = select_fields(self._offer.request, request)
        if lora_set := getattr(asked, "lora_set", ""):
            options["prefers"] = lora_set
        return stream(self._model, find_method(self._offer.role), asked, **pictures, **options)


class Upscaling:
    """Enlarges what a job names. Several replicas work on a video at once."""

    def __init__(self, model: Handle, media: Media, transport: Transport) -> None:
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
            async with aclosing(self._runs(asked, video.runs(known.frames))) as results:
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
    model: Handle, request: UpscaleRequest, run: Frames, transport: Transport
) -> tuple[Frames, StageDone]:
    """Enlarge one run, on whichever replica is free; leaving it stops the work before its next tile."""
    found: list[Item] = []
    async with opened(stream(model, "upscale", request, run), transport) as items:
        found += [item async for item in items]
    (frames,) = (item for item in found if isinstance(item, Frames))
    (done,) = (item for item in found if isinstance(item, StageDone))
    return frames, done


JOBS: Mapping[Role, type[SingleRequest]] = {
    "guided-edit": EditJob,
    "image-to-video": AnimationJob,
    "restyle": RepaintJob,
    "text-to-image": PictureJob,
    "text-to-video": FilmJob,
    "upscale": UpscaleJob,
}
"""Role → what a job of a model alone takes beside the model's fields. Other roles give no frames or pictures."""


def _graph_of(model: Model[Any]) -> Graph | None:
    """Make the graph of jobs of a model alone, by the first of its offers that gives frames or pictures."""
    for offer in model.offers:
        if offer.role in JOBS and offer.request is not None:
            need = Need(offer.role, offer.request, at="")
            return Graph(model.kind, _request_class(model, offer), partial(Single, offer), needs=(need,))
    return None


def _request_class(model: Model[Any], offer: Offer) -> type[SingleRequest]:
    """Make the class of the requests. It is kept in this module, where Ray finds it in another process."""
    shape = JOBS[offer.role]
    asked = cast("type[BaseModel]", offer.request)
    more: dict[str, Any] = dict.fromkeys(offer.pictures, (str | None, None))
    name = f"{''.join(part.title() for part in model.kind.split('-'))}Job"
    created = create_model(name, __base__=(shape, asked), __module__=__name__, __doc__=shape.__doc__, **more)
    made = cast("type[SingleRequest]", created)
    made.MEDIA = {**shape.MEDIA, **dict.fromkeys(offer.pictures, "image")}
    setattr(sys.modules[__name__], name, made)
    return made


SINGLES: Mapping[str, Graph] = {model.kind: graph for model in MODELS if (graph := _graph_of(model)) is not None}
"""Kind of model → the graph of its jobs."""
