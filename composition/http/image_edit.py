"""`POST /v1/images/edits`: edits a picture without a job."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from composition.configuration.served import ServedModel
from composition.graphs.calls import Handle, Transport, open_stream, stream
from composition.graphs.run import Stages
from composition.http.bodies import PENDING
from composition.http.picture_output import PictureOutput, PictureWriter, refuse_transparency
from composition.http.schemas import ImageObject, ImagesObject, ScoresObject
from composition.http.validation import parse_fields
from composition.media.backgrounds import check_background
from composition.media.limits import MediaKind
from composition.records.events import StageObject
from services.errors import InvalidParameter, LimitExceeded, ModelFailed
from services.frames import Fact, Frames, JsonValue, Scores, StageDone
from services.limits import MAX_SEED, Size, draw_seed
from services.qwen_edit.request import MAX_PICTURES, EditRequest
from services.roles import GuidedEdit

DEFAULT_BACKGROUNDS = ("auto", "opaque")
"""OpenAI's values of `background`, with which the configured colour is used."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a request."""

    image: Frames
    """The picture to edit."""
    references: Sequence[Frames] = ()
    """Pictures that the prompt may refer to."""
    edges: Frames | None = None
    """The edges to follow."""
    changes: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """What the decoder changed in the pictures, as facts."""


def _read_size(size: object) -> object:
    return None if size == "auto" else size


def _check_background(name: str) -> str:
    return name if name in DEFAULT_BACKGROUNDS else check_background(name)


class ImageEditRequest(PictureOutput, EditRequest):
    """Edit a picture, with OpenAI's fields and Qwen-Image-Edit's own."""

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {"image": "pictures", "edges": "image"}

    image: str
    """The picture to edit, and after it the pictures that the prompt may refer to: at most three pictures in all,
    including `edges`."""
    edges: str | None = None
    """A picture of the edges to follow, white on black; with `edge_filter`, any picture."""
    model: str | None = None
    """Id of a served model that edits pictures; by default the first."""
    n: Annotated[int, Field(ge=1, le=4)] = 1
    """Number of results; each uses the next seed."""
    size: Annotated[Size | None, BeforeValidator(_read_size, json_schema_input_type=Size | Literal["auto"] | None)] = (
        None
    )
    """`WIDTHxHEIGHT` of the result in pixels; by default, and with `auto`, the size of the picture."""
    background: Annotated[str, BeforeValidator(refuse_transparency), AfterValidator(_check_background)] = "auto"
    """What transparent pictures are shown on: `#rrggbb` or a basic colour name of CSS; with `auto` and `opaque`, the
    configured colour (white). The results are always opaque."""
    response_format: Literal["b64_json"] = "b64_json"
    """Format of the response; pictures are not stored, so there are no URLs."""

    @property
    def shown_on(self) -> str | None:
        """The background of transparent pictures; None for the configured one."""
        return None if self.background in DEFAULT_BACKGROUNDS else self.background


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

    def parse_request(self, fields: Mapping[str, Any], pictures: int, *, has_edges: bool) -> ImageEditRequest:
        """Validate the fields of a request.

        Args:
            fields: the fields of the body, without media.
            pictures: number of pictures given as `image`.
            has_edges: whether the media field `edges` is given.

        Raises InvalidParameter, LimitExceeded.
        """
        if not pictures:
            raise InvalidParameter("image: field required", param="image")
        most = MAX_PICTURES - has_edges
        if pictures > most:
            limit = f"at most {most} pictures beside edges" if has_edges else f"at most {most} pictures"
            raise LimitExceeded(f"image: {limit}, got {pictures}", param="image")
        merged = {**self._defaults, **fields, "image": PENDING, **({"edges": PENDING} if has_edges else {})}
        if not has_edges and not merged.get("prompt"):
            raise InvalidParameter("prompt: field required if no edges are given", param="prompt")
        request = parse_fields(ImageEditRequest, merged, self._limits)
        if not has_edges and "edge_scale" not in request.ttlg.model_fields_set:
            return request.model_copy(update={"ttlg": request.ttlg.model_copy(update={"edge_scale": 0.0})})
        return request

    async def edit(
        self, request: ImageEditRequest, pictures: Pictures, writer: PictureWriter | None = None
    ) -> ImagesObject:
        """Edit a picture `n` times. Cancelling stops the model within one denoising step.

        Args:
            request: as returned by `parse_request`.
            pictures: the pictures of the request.
            writer: writes the results; by default without marks.

        Raises:
            InvalidParameter, LimitExceeded: the model rejects the request or a picture.
            ModelFailed, ServiceLost, ServiceBusy: the call to the model failed.
        """
        writer = writer or PictureWriter(request)
        results: list[ImageObject] = []
        stages = Stages()
        facts: dict[str, JsonValue] = dict(pictures.changes)
        seed = draw_seed(request.seed)
        fields: dict[str, Any] = {name: getattr(request, name) for name in EditRequest.model_fields}
        width, height = 0, 0
        for index in range(request.n):
            edit = EditRequest.model_validate({**fields, "seed": (seed + index) % (MAX_SEED + 1)})
            with _naming_images():
                picture, scores = await self._edit_once(edit, pictures, facts, stages)
            width, height = picture.width, picture.height
            scores_object = None if scores is None else ScoresObject.model_validate(scores, from_attributes=True)
            for stage in stages.list_done():
                writer.add(stage)
            data = await writer.write(picture, str(index), edit.seed)
            results.append(ImageObject(b64_json=data, seed=edit.seed, scores=scores_object))
        facts.pop("seed", None)
        size, finished = f"{width}x{height}", [StageObject.from_stage(each) for each in stages.list_done()]
        form = request.output_format
        return ImagesObject(
            created=int(time.time()), data=results, size=size, output_format=form, facts=facts, stages=finished
        )

    async def _edit_once(
        self, edit: EditRequest, pictures: Pictures, facts: dict[str, JsonValue], stages: Stages
    ) -> tuple[Frames, Scores | None]:
        """Return one result and its scores. Its facts and stages are added to `facts` and `stages`."""
        result: Frames | None = None
        scores: Scores | None = None
        image, edges, references = pictures.image, pictures.edges, pictures.references
        editor = self._handle.prefer(edit.lora_set)
        call = stream(editor, GuidedEdit[EditRequest].edit, edit, image, edges, references=references)
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


@contextmanager
def _naming_images() -> Generator[None]:
    """Name the field `image` in the errors of the model's argument `references`, which is a part of it here."""
    try:
        yield
    except InvalidParameter as error:
        if error.param != "references":
            raise
        message = f"image{error.message.removeprefix('references')}"
        raise type(error)(message, param="image") from error
