"""`POST /v1/images/edits`: edits a picture without a job."""

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from composition.configuration.served import ServedModel
from composition.graphs.calls import Handle, Transport, open_stream, stream
from composition.graphs.run import Stages
from composition.http.bodies import PENDING
from composition.http.schemas import ImageObject, ImagesObject, ScoresObject
from composition.http.validation import parse_fields
from composition.media.encode import encode_png
from composition.media.limits import MediaKind
from composition.records.events import StageObject
from services.errors import InvalidParameter, ModelFailed
from services.frames import Fact, Frames, JsonValue, Scores, StageDone
from services.limits import MAX_SEED, Size, draw_seed
from services.qwen_edit.request import EditRequest
from services.roles import GuidedEdit

MAX_PICTURES = 2
"""Maximum number of pictures in a request: one with the edges to follow, and the one to edit."""


def _read_size(size: object) -> object:
    return None if size == "auto" else size


class ImageEditRequest(EditRequest):
    """Edit a picture, with OpenAI's fields and Qwen-Image-Edit's own."""

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {"image": "pictures"}

    image: str
    """The picture to edit; or two pictures, of which the first has the edges to follow and the second is edited."""
    model: str | None = None
    """Id of a served model that edits pictures; by default the first."""
    n: Annotated[int, Field(ge=1, le=4)] = 1
    """Number of results; each uses the next seed."""
    size: Annotated[Size | None, BeforeValidator(_read_size, json_schema_input_type=Size | Literal["auto"] | None)] = (
        None
    )
    """`WIDTHxHEIGHT` of the result in pixels; by default, and with `auto`, the size of the picture."""
    response_format: Literal["b64_json"] = "b64_json"
    """Format of the response; pictures are not stored, so there are no URLs."""
    output_format: Literal["png"] = "png"
    """File format of the pictures."""


class ImageEditor:
    """Edits single pictures with a guided-edit model.

    Args:
        handle: the model.
        served: its limits and defaults.
        transport: the exceptions of calls to the model.
    """

    def __init__(self, handle: Handle[GuidedEdit[EditRequest]], served: ServedModel, transport: Transport) -> None:
        self._handle = handle
        self._limits, self._defaults = served.limits, served.defaults
        self._transport = transport

    def parse_request(self, fields: Mapping[str, Any], pictures: int) -> ImageEditRequest:
        """Validate the fields of a request.

        Args:
            fields: the fields of the body, without media.
            pictures: number of pictures given.

        Raises InvalidParameter, LimitExceeded.
        """
        if not 1 <= pictures <= MAX_PICTURES:
            raise InvalidParameter(
                f"image: must be one picture, or an edge picture and a picture, got {pictures} pictures",
                param="image",
            )
        merged = {**self._defaults, **fields, "image": PENDING}
        if pictures == 1 and not merged.get("prompt"):
            raise InvalidParameter("prompt: field required", param="prompt")
        request = parse_fields(ImageEditRequest, merged, self._limits)
        if pictures == 1 and "edge_scale" not in request.ttlg.model_fields_set:  # no edges to follow
            return request.model_copy(update={"ttlg": request.ttlg.model_copy(update={"edge_scale": 0.0})})
        return request

    async def edit(self, request: ImageEditRequest, pictures: Sequence[Frames]) -> ImagesObject:
        """Edit a picture `n` times. Cancelling stops the model within one denoising step.

        Args:
            request: as returned by `parse_request`.
            pictures: the edge picture, if there is one, and the picture.

        Raises:
            InvalidParameter, LimitExceeded: the model rejects the request or a picture.
            ModelFailed, ServiceLost, ServiceBusy: the call to the model failed.
        """
        results: list[ImageObject] = []
        stages = Stages()
        facts: dict[str, JsonValue] = {}
        seed = draw_seed(request.seed)
        fields: dict[str, Any] = {name: getattr(request, name) for name in EditRequest.model_fields}
        width, height = 0, 0
        for index in range(request.n):
            edit = EditRequest.model_validate({**fields, "seed": (seed + index) % (MAX_SEED + 1)})
            picture, scores = await self._edit_once(edit, pictures, facts, stages)
            width, height = picture.width, picture.height
            scores_object = None if scores is None else ScoresObject.model_validate(scores, from_attributes=True)
            data = base64.b64encode(encode_png(picture.pixels[0])).decode()
            results.append(ImageObject(b64_json=data, seed=edit.seed, scores=scores_object))
        facts.pop("seed", None)
        size, finished = f"{width}x{height}", [StageObject.from_stage(each) for each in stages.list_done()]
        return ImagesObject(created=int(time.time()), data=results, size=size, facts=facts, stages=finished)

    async def _edit_once(
        self, edit: EditRequest, pictures: Sequence[Frames], facts: dict[str, JsonValue], stages: Stages
    ) -> tuple[Frames, Scores | None]:
        """Return one result and its scores. Its facts and stages are added to `facts` and `stages`."""
        edges = pictures[0] if len(pictures) == MAX_PICTURES else None
        result: Frames | None = None
        scores: Scores | None = None
        call = stream(self._handle, GuidedEdit[EditRequest].edit, edit, pictures[-1], edges)
        async with open_stream(call, self._transport) as items:
            async for item in items:
                match item:
                    case Frames():
                        result = item
                    case Scores():
                        scores = item
                    case Fact():
                        facts[item.name] = item.value
                    case StageDone():
                        stages.add(item)
                    case _:
                        pass
        if result is None:
            raise ModelFailed("the model returned no picture")
        return result, scores
