"""One edited picture, at once and without a job: `POST /v1/images/edits`."""

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from composition.configuration.served import ServedModel
from composition.graphs.calls import Handle, Transport, opened, stream
from composition.graphs.run import Stages
from composition.http.bodies import PENDING
from composition.http.schemas import ImageObject, ImagesObject, ScoresObject, stage_object
from composition.http.validation import parsed
from composition.media.encode import encode_png
from composition.media.limits import MediaKind
from services.errors import InvalidParameter, ModelFailed
from services.frames import Fact, Frames, JsonValue, Scores, StageDone
from services.limits import MAX_SEED, Size, draw_seed
from services.qwen_edit.request import EditRequest
from services.roles import GuidedEdit

MAX_PICTURES = 2


def _read_size(size: object) -> object:
    return None if size == "auto" else size


class ImageEditRequest(EditRequest):
    """Edit a picture, in OpenAI's words where they have one."""

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {"image": "pictures"}

    image: str
    """One picture, or two: the first then shows the edges to follow, and the second is edited."""
    model: str | None = None
    """The id of a served model that edits pictures; by default the first."""
    n: Annotated[int, Field(ge=1, le=4)] = 1
    """How many, each with the seed after the one before."""
    size: Annotated[Size | None, BeforeValidator(_read_size, json_schema_input_type=Size | Literal["auto"] | None)] = (
        None
    )
    """`WIDTHxHEIGHT` of the result in pixels; by default, and with `auto`, the picture's own."""
    response_format: Literal["b64_json"] = "b64_json"
    """Nothing is stored, so there is no URL."""
    output_format: Literal["png"] = "png"
    """The format of the pictures."""


class Editor:
    """Asks Qwen-Image-Edit for single pictures.

    Args:
        handle: of the model.
        served: what it takes.
        transport: the exceptions of the calls.
    """

    def __init__(self, handle: Handle[GuidedEdit[EditRequest]], served: ServedModel, transport: Transport) -> None:
        self._handle = handle
        self._limits, self._defaults = served.limits, served.defaults
        self._transport = transport

    def asked(self, fields: Mapping[str, Any], pictures: int) -> ImageEditRequest:
        """Return the request that `fields` make for so many pictures. Raises InvalidParameter, LimitExceeded."""
        if not 1 <= pictures <= MAX_PICTURES:
            raise InvalidParameter(
                f"image: give the picture, or the edge picture and the picture; got {pictures}", param="image"
            )
        merged = {**self._defaults, **fields, "image": PENDING}
        if pictures == 1 and not merged.get("prompt"):
            raise InvalidParameter("prompt: field required", param="prompt")
        asked = parsed(ImageEditRequest, merged, self._limits)
        if pictures == 1 and "edge_scale" not in asked.ttlg.model_fields_set:  # there are no edges to follow
            return asked.model_copy(update={"ttlg": asked.ttlg.model_copy(update={"edge_scale": 0.0})})
        return asked

    async def edit(self, request: ImageEditRequest, pictures: Sequence[Frames]) -> ImagesObject:
        """Edit, and answer when all are done. Being cancelled stops the work within one denoising step."""
        made: list[ImageObject] = []
        stages = Stages()
        facts: dict[str, JsonValue] = {}
        seed = draw_seed(request.seed)
        fields: dict[str, Any] = {name: getattr(request, name) for name in EditRequest.model_fields}
        width, height = 0, 0
        for number in range(request.n):
            edit = EditRequest.model_validate({**fields, "seed": (seed + number) % (MAX_SEED + 1)})
            picture, scores = await self._one(edit, pictures, facts, stages)
            width, height = picture.width, picture.height
            told = None if scores is None else ScoresObject.model_validate(scores, from_attributes=True)
            data = base64.b64encode(encode_png(picture.pixels[0])).decode()
            made.append(ImageObject(b64_json=data, seed=edit.seed, scores=told))
        facts.pop("seed", None)
        done = [stage_object(each) for each in stages.done()]
        return ImagesObject(created=int(time.time()), data=made, size=f"{width}x{height}", facts=facts, stages=done)

    async def _one(
        self, edit: EditRequest, pictures: Sequence[Frames], facts: dict[str, JsonValue], stages: Stages
    ) -> tuple[Frames, Scores | None]:
        edges = pictures[0] if len(pictures) == MAX_PICTURES else None
        found: Frames | None = None
        scores: Scores | None = None
        call = stream(self._handle, GuidedEdit[EditRequest].edit, edit, pictures[-1], edges)
        async with opened(call, self._transport) as items:
            async for item in items:
                match item:
                    case Frames():
                        found = item
                    case Scores():
                        scores = item
                    case Fact():
                        facts[item.name] = item.value
                    case StageDone():
                        stages.passes(item)
                    case _:
                        pass
        if found is None:
            raise ModelFailed("the model made no picture")
        return found, scores
