"""`POST /v1/images/generations`: generates pictures without a job; the response is an object or a stream of events."""

import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from composition.configuration.served import ServedModel
from composition.graphs.calls import Handle, Transport, open_stream, stream
from composition.graphs.face_pose import PHOTO, POSE, WORDS, PosedFace, check_pose
from composition.graphs.faces import find_face, find_pose, read_identity
from composition.graphs.identity import IdentityField
from composition.http.bodies import PENDING
from composition.http.picture_output import PictureOutput, PictureWriter, refuse_transparency
from composition.http.schemas import (
    CompletedImage,
    ImageEvent,
    ImageObject,
    ImageProgress,
    ImagesObject,
    PartialImage,
    StageObject,
)
from composition.http.sse import format_event
from composition.http.validation import parse_fields
from composition.media.limits import MediaKind
from services.errors import InvalidParameter, ModelFailed
from services.flux.request import FluxRequest
from services.frames import Face, Fact, Frames, Item, JsonValue, Progress, StageDone
from services.limits import MAX_SEED, MAX_TEXT
from services.roles import FaceDetection, TextToImage

MAX_PARTIAL = 3
"""Maximum number of previews of a picture, as in OpenAI's API."""
STARTED = ": begun\n\n"
"""A comment, sent when the model has started: from here on, an error can no longer set the status of the response."""

UNSUPPORTED = {
    "style": "describe it in the prompt, or give loras",
    "moderation": "generated pictures are not moderated",
}
"""OpenAI's fields that are not supported → the reason."""
AUTO = ("size", "auto")
NO_TOKENS: dict[str, Any] = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), 0)
NO_TOKENS["input_tokens_details"] = {"image_tokens": 0, "text_tokens": 0}
"""`usage` of OpenAI's events, which is required there; tokens are not counted here."""


class GenerationRequest(PictureOutput, FluxRequest, PosedFace):
    """Generate pictures from a prompt, with OpenAI's fields and Flux' own.

    `size` may also be `auto`, which selects the default.
    """

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {"face": "image", POSE: "image"}
    WORDS: ClassVar[Mapping[str, Collection[str]]] = WORDS

    model: str | None = None
    """Id of a served model that generates pictures; by default the first."""
    face: str | None = None
    """A picture of the person to show."""
    identity: IdentityField | None = None
    """The person to show, as returned by `POST /v1/faces`; given instead of `face`."""
    response_format: Literal["b64_json"] = "b64_json"
    """Format of the response; pictures are not stored, so there are no URLs."""
    background: Annotated[Literal["auto", "opaque"], BeforeValidator(refuse_transparency)] = "auto"
    """Background of the pictures, which are always opaque."""
    quality: Literal["auto", "standard"] = "auto"
    """Accepted for compatibility; use `steps` to choose the quality."""
    user: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """Accepted for compatibility; ignored."""
    safety_identifier: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """Accepted for compatibility; ignored."""


class ImageGenerationRequest(GenerationRequest):
    """Generate pictures from a prompt, optionally as a stream of events."""

    stream: bool = False
    """Whether the response is a stream of events, with each picture as soon as it is finished."""
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL)] = 0
    """Maximum number of previews of each picture in a stream, if the deployment makes previews."""
    progress: bool = False
    """Whether a stream also has an event `image_generation.progress` for each step."""


@dataclass(frozen=True)
class FacePictures:
    """The pictures of faces in a request, each one frame."""

    face: Frames | None = None
    """The person to show."""
    pose: Frames | None = None
    """A face whose pose is used."""


class ImageGenerator:
    """Generates pictures with a text-to-image model, optionally of a person whose face is found in another picture.

    Args:
        handle: the text-to-image model.
        served: its limits and defaults.
        faces: the model that finds faces, or None if none is served.
        transport: the exceptions of calls to models.
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

    def parse_request(
        self, fields: Mapping[str, Any], *, has_face: bool, has_pose: bool = False
    ) -> ImageGenerationRequest:
        """Validate the fields of a request. A field that is null, and the size `auto`, count as not given.

        Args:
            fields: the fields of the body, without media.
            has_face: whether the media field `face` is given.
            has_pose: whether the media field `face_pose` is given.

        Raises:
            InvalidParameter, LimitExceeded.
        """
        given = {name: value for name, value in fields.items() if value is not None and (name, value) != AUTO}
        for name, reason in UNSUPPORTED.items():
            if name in given:
                raise InvalidParameter(f"{name}: not supported: {reason}", param=name)
        if given.get("response_format") == "url":
            message = "response_format: must be 'b64_json' (pictures are not stored), got 'url'"
            raise InvalidParameter(message, param="response_format")
        if has_face:
            given["face"] = PENDING
        if has_pose:
            given[POSE] = PENDING
        request = parse_fields(ImageGenerationRequest, {**self._defaults, **given}, self._limits)
        for name in ("partial_images", "progress"):
            if name in given and getattr(request, name) and not request.stream:
                raise InvalidParameter(f"{name}: allowed only with stream, got {getattr(request, name)}", param=name)
        highest = MAX_SEED - request.n + 1
        if request.seed > highest:
            raise InvalidParameter(
                f"seed: must be at most {highest} with n={request.n}, got {request.seed}", param="seed"
            )
        self._check_face(request)
        return request

    def _check_face(self, request: ImageGenerationRequest) -> None:
        if request.face is not None and request.identity is not None:
            raise InvalidParameter("identity: give either this or face, not both", param="identity")
        check_pose(request, request.identity, has_face=request.face is not None or request.identity is not None)
        for name, picture in (("face", request.face), (POSE, request.pose_picture)):
            if picture is not None:
                self._require_face_model(name)

    def _require_face_model(self, field: str) -> Handle[FaceDetection]:
        """Return the model that finds faces. Raises InvalidParameter about `field` if none is served."""
        if self._faces is None:
            instead = "give an identity instead" if field == "face" else "give none or photo instead"
            raise InvalidParameter(f"{field}: no model that finds faces is served; {instead}", param=field)
        return self._faces

    async def generate(
        self, request: ImageGenerationRequest, faces: FacePictures, writer: PictureWriter | None = None
    ) -> ImagesObject:
        """Generate all pictures of a request. Cancelling stops the model within one denoising step.

        Args:
            request: as returned by `parse_request`.
            faces: the pictures of faces.
            writer: writes the pictures; by default without marks.

        Raises:
            InvalidParameter, LimitExceeded: a model rejects the request or the picture of the face.
            ModelFailed, ServiceLost, ServiceBusy: a call to a model failed.
        """
        writer = writer or PictureWriter(request)
        pictures: list[ImageObject] = []
        facts: dict[str, JsonValue] = {}
        stages: list[StageObject] = []
        size = ""
        async with aclosing(self._stream_items(request, faces)) as items:
            async for item in items:
                writer.add(item)
                match item:
                    case Frames():
                        seed = _find_seed(facts, item)
                        data = await writer.write(item, str(item.first), seed)
                        pictures.append(ImageObject(b64_json=data, seed=seed))
                        size = f"{item.width}x{item.height}"
                    case Fact():
                        facts[item.name] = item.value
                    case StageDone():
                        stages.append(StageObject.from_stage(item))
                    case _:
                        pass
        _check_count(len(pictures), request)
        form = request.output_format
        return ImagesObject(
            created=int(time.time()), data=pictures, size=size, output_format=form, facts=facts, stages=stages
        )

    async def stream_events(
        self, request: ImageGenerationRequest, faces: FacePictures, writer: PictureWriter | None = None
    ) -> AsyncGenerator[str]:
        """Generate pictures, and yield OpenAI's events for each as soon as it is finished. Closing stops the model.

        The first item is a comment, yielded when the model has started.

        Args, Raises: as `generate`.
        """
        formatter = EventFormatter(request, writer or PictureWriter(request))
        async with aclosing(self._stream_items(request, faces)) as items:
            async for item in items:
                if text := await formatter.format_item(item):
                    yield text
        _check_count(formatter.finished, request)

    async def _stream_items(self, request: ImageGenerationRequest, faces: FacePictures) -> AsyncGenerator[Item]:
        """Yield the items of the face model, if pictures of faces are given, and then of the text-to-image model."""
        face: Face | None = None if request.identity is None else read_identity(request.identity)
        if faces.face is not None:
            face, face_items = await find_face(self._require_face_model("face"), faces.face, self._transport)
            for item in face_items:
                yield item
        pose = face if request.face_pose == PHOTO else None
        if faces.pose is not None:
            pose, face_items = await find_pose(self._require_face_model(POSE), faces.pose, self._transport)
            for item in face_items:
                yield item
        painting = FluxRequest.model_validate({name: getattr(request, name) for name in FluxRequest.model_fields})
        painter = self._handle.prefer(painting.lora_set)
        call = stream(painter, TextToImage[FluxRequest].generate_image, painting, face, pose=pose)
        async with open_stream(call, self._transport) as items:
            async for item in items:
                yield item


class PreviewSelector:
    """Selects the previews to send, by step number, so that equal requests have the same previews.

    The steps of a picture are divided into `max_previews` + 1 equal parts, and the first preview of each part is
    selected. The first part has none, because its previews are mostly noise; nor has the last step, because its result
    is the picture itself.

    Args:
        steps: denoising steps of each picture.
        max_previews: of each picture.
    """

    def __init__(self, steps: int, max_previews: int) -> None:
        self._steps = steps
        self._max_previews = max_previews
        self._picture = 0
        self._part = 0
        self.selected = 0
        """Number of previews selected for the current picture."""

    def select(self, done: int) -> bool:
        """Return whether to send the preview after `done` steps, counted over all pictures. Call in order of steps."""
        picture, step = (done - 1) // self._steps, (done - 1) % self._steps + 1
        if picture != self._picture:
            self._picture, self._part, self.selected = picture, 0, 0
        part = step * (self._max_previews + 1) // self._steps
        if step == self._steps or part <= self._part:
            return False
        self._part = part
        self.selected += 1
        return True


class EventFormatter:
    """Formats the items of a text-to-image model as OpenAI's events."""

    def __init__(self, request: ImageGenerationRequest, writer: PictureWriter) -> None:
        self._request = request
        self._writer = writer
        self._previews = PreviewSelector(request.steps, request.partial_images)
        self._facts: dict[str, JsonValue] = {}
        self.finished = 0
        """Number of finished pictures."""

    async def format_item(self, item: Item) -> str:
        """Return the formatted events for an item, or "" if there are none."""
        self._writer.add(item)
        match item:
            case Fact():
                self._facts[item.name] = item.value
                return STARTED if item.name == "seed" else ""
            case Progress():
                return self._format_progress(item) + await self._format_preview(item)
            case Frames():
                self.finished += 1
                seed = _find_seed(self._facts, item)
                fields = await self._make_fields(item, str(item.first), seed)
                return _format_event(CompletedImage(**fields, seed=seed, facts=self._facts, usage=NO_TOKENS))
            case _:
                return ""

    def _format_progress(self, item: Progress) -> str:
        if not self._request.progress:
            return ""
        return _format_event(ImageProgress(stage=item.stage, done=item.done, total=item.total))

    async def _format_preview(self, item: Progress) -> str:
        if item.preview is None or not self._previews.select(item.done):
            return ""
        number = self._previews.selected - 1
        name, seed = f"{item.preview.first}-partial-{number}", _find_seed(self._facts, item.preview)
        return _format_event(
            PartialImage(**await self._make_fields(item.preview, name, seed), partial_image_index=number)
        )

    async def _make_fields(self, picture: Frames, name: str, seed: int) -> dict[str, Any]:
        """Return the fields that partial and completed images have in common; `name` is that of the file."""
        return {
            "b64_json": await self._writer.write(picture, name, seed),
            "output_format": self._request.output_format,
            "size": self._facts.get("size"),
            "created_at": int(time.time()),
            "index": picture.first,
            "n": self._request.n,
        }


def _format_event(event: ImageEvent) -> str:
    return format_event(event.KIND, {"type": event.KIND, **event.model_dump(mode="json")})


def _find_seed(facts: Mapping[str, JsonValue], picture: Frames) -> int:
    """Return the seed that generates this picture alone. Raises ModelFailed if the model has not reported one."""
    seed = facts.get("seed")
    if not isinstance(seed, int):
        raise ModelFailed("the model did not report its seed")
    return seed + picture.first


def _check_count(finished: int, request: ImageGenerationRequest) -> None:
    if finished != request.n:
        raise ModelFailed(f"the model generated {finished} of {request.n} pictures")
