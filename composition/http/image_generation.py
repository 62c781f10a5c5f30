"""Painted pictures, at once and without a job: `POST /v1/images/generations`, whole or as a stream of events."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from composition.configuration.served import ServedModel
from composition.graphs.calls import Handle, Transport, opened, stream
from composition.graphs.faces import find_face, read_identity
from composition.graphs.identity import IdentityField
from composition.http.bodies import PENDING
from composition.http.schemas import (
    CompletedImage,
    ImageEvent,
    ImageObject,
    ImageProgress,
    ImagesObject,
    PartialImage,
    StageObject,
    stage_object,
)
from composition.http.sse import said
from composition.http.validation import parsed
from composition.media.encode import encode_png
from composition.media.limits import MediaKind
from services.errors import InvalidParameter, ModelFailed
from services.flux.request import FluxRequest
from services.frames import Face, Fact, Frames, Item, JsonValue, Progress, StageDone
from services.limits import MAX_SEED, MAX_TEXT
from services.roles import FaceDetection, TextToImage

MAX_PARTIAL = 3
"""Previews of one picture that are passed on, as OpenAI has it."""
BEGUN = ": begun\n\n"
"""A comment: the model is at work, so what comes now can no longer change the status of the answer."""

REFUSED = {
    "style": "say it in the prompt, or give loras",
    "moderation": "what is painted here is not moderated",
    "output_compression": "a PNG loses nothing",
}
"""Fields of OpenAI's that cannot be honoured, and why."""
AUTO = ("size", "auto")
NO_TOKENS: dict[str, Any] = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), 0)
NO_TOKENS["input_tokens_details"] = {"image_tokens": 0, "text_tokens": 0}
"""OpenAI's event must have it; nothing is counted in tokens here."""


class GenerationRequest(FluxRequest):
    """Paint pictures, in OpenAI's words where they have one, and in Flux' own.

    `size` may be `auto`: then the default.
    """

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {"face": "image"}

    model: str | None = None
    """The id of a served model that paints pictures; by default the first."""
    face: str | None = None
    """A picture of whoever is to be seen."""
    identity: IdentityField | None = None
    """Whoever is to be seen, as `POST /v1/faces` has answered it; instead of `face`."""
    response_format: Literal["b64_json"] = "b64_json"
    """Nothing is stored, so there is no URL."""
    output_format: Literal["png"] = "png"
    """The format of the pictures."""
    quality: Literal["auto", "standard"] = "auto"
    """There is one quality; `steps` decides."""
    background: Literal["auto", "opaque"] = "auto"
    """Pictures are opaque."""
    user: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """Not used."""
    safety_identifier: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """Not used."""


class ImageGenerationRequest(GenerationRequest):
    """Paint pictures, and be told of each in a stream of events."""

    stream: bool = False
    """Whether the answer is a stream of events, each picture as soon as it is there."""
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL)] = 0
    """Previews of each picture while it is painted, in a stream: at most so many, where the deployment makes them."""
    progress: bool = False
    """Whether a stream tells of each step too, as events `image_generation.progress`."""


class Painter:
    """Asks Flux for single pictures, with the face that InstantID finds in another one.

    Args:
        handle: of the model.
        served: what it takes.
        faces: handle of the model that finds faces, where there is one.
        transport: the exceptions of the calls.
    """

    def __init__(
        self,
        handle: Handle[TextToImage[FluxRequest]],
        served: ServedModel,
        faces: Handle[FaceDetection] | None,
        transport: Transport,
    ) -> None:
        self._handle = handle
        self._faces = faces
        self._limits, self._defaults = served.limits, served.defaults
        self._transport = transport

    def asked(self, fields: Mapping[str, Any], *, face: bool) -> ImageGenerationRequest:
        """Return the request that `fields` make. What is null, and the size `auto`, is as if it were left out.

        Args:
            fields: as they came.
            face: whether there is the picture of a face beside them.

        Raises:
            InvalidParameter, LimitExceeded.
        """
        given = {name: value for name, value in fields.items() if value is not None and (name, value) != AUTO}
        for name, reason in REFUSED.items():
            if name in given:
                raise InvalidParameter(f"{name}: cannot be chosen here: {reason}", param=name)
        if given.get("response_format") == "url":
            reason = "nothing is stored here, so there is no url; must be 'b64_json'"
            raise InvalidParameter(f"response_format: {reason}, got 'url'", param="response_format")
        if face:
            given["face"] = PENDING
        asked = parsed(ImageGenerationRequest, {**self._defaults, **given}, self._limits)
        for name in ("partial_images", "progress"):
            if name in given and getattr(asked, name) and not asked.stream:
                raise InvalidParameter(f"{name}: needs stream, got {getattr(asked, name)}", param=name)
        if asked.seed + asked.n - 1 > MAX_SEED:
            most = MAX_SEED - asked.n + 1
            raise InvalidParameter(
                f"seed: of {asked.n} pictures must be at most {most}, got {asked.seed}", param="seed"
            )
        self._check_face(asked)
        return asked

    def _check_face(self, asked: ImageGenerationRequest) -> None:
        if asked.face is not None and asked.identity is not None:
            raise InvalidParameter("identity: give either this or face, not both", param="identity")
        if asked.face is not None:
            self._need_finder()

    def _need_finder(self) -> Handle[FaceDetection]:
        if self._faces is None:
            raise InvalidParameter("face: no model that finds faces is served here; give an identity", param="face")
        return self._faces

    async def paint(self, request: ImageGenerationRequest, face: Frames | None) -> ImagesObject:
        """Paint, and answer when all are done. Being cancelled stops the work within one denoising step.

        Raises:
            InvalidParameter, LimitExceeded: what the services refuse.
            ModelFailed, ServiceLost, ServiceBusy.
        """
        made: list[ImageObject] = []
        facts: dict[str, JsonValue] = {}
        stages: list[StageObject] = []
        size = ""
        async with aclosing(self._items(request, face)) as items:
            async for item in items:
                match item:
                    case Frames():
                        made.append(ImageObject(b64_json=await _png(item), seed=_seed(facts, item)))
                        size = f"{item.width}x{item.height}"
                    case Fact():
                        facts[item.name] = item.value
                    case StageDone():
                        stages.append(stage_object(item))
                    case _:
                        pass
        _check_count(len(made), request)
        return ImagesObject(created=int(time.time()), data=made, size=size, facts=facts, stages=stages)

    async def events(self, request: ImageGenerationRequest, face: Frames | None) -> AsyncGenerator[str]:
        """Paint, and yield OpenAI's events, each picture's as soon as it is there. Closing it stops the work.

        Before them there is a comment, when the model is at work. Raises what `paint` raises.
        """
        story = Story(request)
        async with aclosing(self._items(request, face)) as items:
            async for item in items:
                if text := await story.told(item):
                    yield text
        _check_count(story.made, request)

    async def _items(self, request: ImageGenerationRequest, picture: Frames | None) -> AsyncGenerator[Item]:
        face: Face | None = None if request.identity is None else read_identity(request.identity)
        if picture is not None:
            face, beside = await find_face(self._need_finder(), picture, self._transport)
            for item in beside:
                yield item
        painting = FluxRequest.model_validate({name: getattr(request, name) for name in FluxRequest.model_fields})
        painter = self._handle.prefer(painting.lora_set)
        call = stream(painter, TextToImage[FluxRequest].generate_image, painting, face)
        async with opened(call, self._transport) as items:
            async for item in items:
                yield item


class Previews:
    """Chooses which previews are passed on: by their steps, so that the same request tells the same.

    Args:
        steps: of each picture.
        most: of each picture.
    """

    def __init__(self, steps: int, most: int) -> None:
        self._steps = steps
        self._most = most
        self._picture = 0
        self._slot = 0
        self.passed = 0
        """Of the picture that is being painted."""

    def passes(self, done: int) -> bool:
        """Whether the preview after `done` steps of all pictures is the first one in its part of its picture's steps.

        The steps are `most` + 1 parts. The first part shows next to nothing, and behind the last step is the picture.
        """
        picture, step = (done - 1) // self._steps, (done - 1) % self._steps + 1
        if picture != self._picture:
            self._picture, self._slot, self.passed = picture, 0, 0
        slot = step * (self._most + 1) // self._steps
        if step == self._steps or slot <= self._slot:
            return False
        self._slot = slot
        self.passed += 1
        return True


class Story:
    """Makes events of what comes while pictures are painted."""

    def __init__(self, request: ImageGenerationRequest) -> None:
        self._request = request
        self._previews = Previews(request.steps, request.partial_images)
        self._facts: dict[str, JsonValue] = {}
        self.made = 0

    async def told(self, item: Item) -> str:
        """Return the events that an item makes; often none."""
        match item:
            case Fact():
                self._facts[item.name] = item.value
                return BEGUN if item.name == "seed" else ""
            case Progress():
                return self._step(item) + await self._preview(item)
            case Frames():
                self.made += 1
                shown, seed = await self._shown(item), _seed(self._facts, item)
                return _event(CompletedImage(**shown, seed=seed, facts=self._facts, usage=NO_TOKENS))
            case _:
                return ""

    def _step(self, item: Progress) -> str:
        if not self._request.progress:
            return ""
        return _event(ImageProgress(stage=item.stage, done=item.done, total=item.total))

    async def _preview(self, item: Progress) -> str:
        if item.preview is None or not self._previews.passes(item.done):
            return ""
        shown = await self._shown(item.preview)
        return _event(PartialImage(**shown, partial_image_index=self._previews.passed - 1))

    async def _shown(self, picture: Frames) -> dict[str, Any]:
        """What OpenAI says of a picture, and which of how many it is."""
        return {
            "b64_json": await _png(picture),
            "size": self._facts.get("size"),
            "created_at": int(time.time()),
            "index": picture.first,
            "n": self._request.n,
        }


def _event(event: ImageEvent) -> str:
    return said(event.KIND, {"type": event.KIND, **event.model_dump(mode="json")})


async def _png(picture: Frames) -> str:
    data = await asyncio.to_thread(encode_png, picture.pixels[0])
    return base64.b64encode(data).decode()


def _seed(facts: Mapping[str, JsonValue], picture: Frames) -> int:
    """By which seed a picture can be painted alone."""
    seed = facts.get("seed")
    if not isinstance(seed, int):
        raise ModelFailed("the model did not say which seed it drew")
    return seed + picture.first


def _check_count(made: int, request: ImageGenerationRequest) -> None:
    if made != request.n:
        raise ModelFailed(f"the model made {made} of {request.n} pictures")
