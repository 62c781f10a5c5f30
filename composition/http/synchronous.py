"""Routes that are answered without a job, as soon as a model has finished: pictures and faces."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from composition.configuration.registry import Registry
from composition.configuration.served import ServedModel
from composition.graphs.calls import Handle, Transport
from composition.graphs.face_pose import POSE
from composition.graphs.graph import Need
from composition.http.bodies import (
    PENDING,
    BodySettings,
    read_body,
    take_media,
)
from composition.http.changes import merge_changes
from composition.http.errors import format_error_event
from composition.http.faces import FaceFinder, FaceObject, FaceRequest
from composition.http.image_edit import ImageEditor, ImageEditRequest, Pictures
from composition.http.image_generation import FacePictures, ImageGenerationRequest, ImageGenerator
from composition.http.input_pictures import InputPictures
from composition.http.picture_output import PictureOrigin, PictureWriter
from composition.http.schemas import ImagesObject
from composition.http.sse import EventStream
from composition.http.uploads import DecodedPicture, Uploads
from composition.http.validation import parse_fields
from composition.jobs.publishing import DEFAULT_OUTPUTS, OutputSettings
from composition.media.marks.provenance import ModelUse
from services.errors import NotFound
from services.flux.request import FluxRequest
from services.model import Role
from services.qwen_edit.request import EditRequest
from services.roles import FaceDetection


class SynchronousRoutes:
    """Answers requests by calling a model; nothing is stored.

    If the client disconnects, the model stops.

    Args:
        served: the served models.
        roles: role → id of the model used if a request names none; by default the first served one.
        uploads: decodes the pictures.
        limits: limits of request bodies.
        transport: the exceptions of calls to models.
        outputs: how the pictures are marked.
    """

    def __init__(
        self,
        served: Registry,
        roles: Mapping[Role, str],
        uploads: Uploads,
        limits: BodySettings,
        transport: Transport,
        outputs: OutputSettings = DEFAULT_OUTPUTS,
    ) -> None:
        self._served = served
        self._roles = roles
        self._uploads = uploads
        self._limits = limits
        self._transport = transport
        self._outputs = outputs

    async def create_image(self, request: Request) -> ImagesObject | Response:
        """Generate pictures. With `stream`, the response is a stream of events."""
        async with AsyncExitStack() as files:
            inputs = InputPictures(self._uploads, request.state.owner, files)
            async with read_body(request, self._limits) as body:
                media, fields = take_media(ImageGenerationRequest.MEDIA, "", body, ImageGenerationRequest.WORDS)
                model, served = await self._choose_model("text-to-image", FluxRequest, fields)
                generator = ImageGenerator(model, served, await self._find_face_model(), self._transport)
                parsed = generator.parse_request(fields, has_face="face" in media, has_pose=POSE in media)
                found = {name: (await inputs.read(value, name)).frames for name, value in media.items()}
                faces = FacePictures(found.get("face"), found.get(POSE))
            stage = ModelUse("paint", served.model.kind, served.source, served.revision)
            prompts = _list_prompts(parsed.prompt, parsed.negative_prompt)
            origin = PictureOrigin(served.id, stage, prompts, inputs.ingredients)
            writer = PictureWriter(parsed, self._outputs, origin)
            if not parsed.stream:
                return await generator.generate(parsed, faces, writer)
            events = _keep_files(generator.stream_events(parsed, faces, writer), files.pop_all())
        return await EventStream(events, format_error_event).start()

    async def edit_image(self, request: Request) -> ImagesObject:
        """Edit a picture."""
        async with AsyncExitStack() as files:
            inputs = InputPictures(self._uploads, request.state.owner, files)
            async with read_body(request, self._limits) as body:
                media, fields = take_media(ImageEditRequest.MEDIA, "", body)
                model, served = await self._choose_model("guided-edit", EditRequest, fields)
                editor = ImageEditor(model, served, self._transport)
                value = media.get("image")
                values = value if isinstance(value, list) else [value] if value is not None else []
                edges = media.get("edges")
                parsed = editor.parse_request(fields, len(values), has_edges=edges is not None)
                given = [(f"image[{place}]" if place else "image", value) for place, value in enumerate(values)]
                given += [] if edges is None else [("edges", edges)]
                found = {
                    place: await inputs.read(value, place.partition("[")[0], parsed.shown_on) for place, value in given
                }
            prompts = _list_prompts(parsed.prompt, parsed.negative_prompt)
            origin = PictureOrigin(served.id, prompts=prompts, ingredients=inputs.ingredients)
            return await editor.edit(parsed, _sort_pictures(found), PictureWriter(parsed, self._outputs, origin))

    async def find_face(self, request: Request) -> FaceObject:
        """Find the largest face in a picture."""
        async with read_body(request, self._limits) as body:
            media, fields = take_media(FaceRequest.MEDIA, "", body)
            model, _ = await self._choose_model("face", None, fields)
            parse_fields(FaceRequest, {**fields, **dict.fromkeys(media, PENDING)}, {})
            async with AsyncExitStack() as files:
                inputs = InputPictures(self._uploads, request.state.owner, files)
                image = (await inputs.read(media["image"], "image")).frames
        return await FaceFinder(model, self._transport).find(image)

    async def _choose_model(
        self, role: Role, request_type: type[BaseModel] | None, fields: Mapping[str, Any]
    ) -> tuple[Handle[Any], ServedModel]:
        """Return the model for a role: the one that the field `model` names, or the configured or first one.

        Args:
            role: the role.
            request_type: the class of request that the model must accept; None for any.
            fields: the fields of the request.

        Raises NotFound, InvalidParameter, ServiceBusy.
        """
        name = fields.get("model")
        snapshot = await asyncio.to_thread(self._served.read_snapshot)
        served = snapshot.choose_model(
            Need(role, request_type), None if name is None else str(name), self._roles.get(role)
        )
        return await asyncio.to_thread(self._served.open_model, served), served

    async def _find_face_model(self) -> Handle[FaceDetection] | None:
        """Return the model that finds faces, or None if none is served."""
        try:
            return (await self._choose_model("face", None, {}))[0]
        except NotFound:
            return None


def _sort_pictures(found: Mapping[str, DecodedPicture]) -> Pictures:
    """Return the decoded pictures of an edit by their use. The first one that is not `edges` is edited."""
    image, *references = [each.frames for place, each in found.items() if place != "edges"]
    edges = found["edges"].frames if "edges" in found else None
    return Pictures(image, references, edges, merge_changes({place: each.changes for place, each in found.items()}))


def _list_prompts(prompt: str, negative: str) -> dict[str, str]:
    """Return the prompts of a request that are not blank."""
    return {name: text for name, text in (("prompt", prompt), ("negative_prompt", negative)) if text.strip()}


async def _keep_files(events: AsyncGenerator[str], files: AsyncExitStack) -> AsyncGenerator[str]:
    """Yield the events of a response, and close its input files when it ends."""
    async with files, aclosing(events):
        async for event in events:
            yield event
