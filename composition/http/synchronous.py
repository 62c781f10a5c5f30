"""Routes that are answered without a job, as soon as a model has finished: pictures and faces."""

import asyncio
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from composition.configuration.registry import Registry
from composition.configuration.served import ServedModel
from composition.graphs.calls import Handle, Transport
from composition.graphs.graph import Need
from composition.http.bodies import (
    ONLY_ONE_MEDIA_VALUE,
    PENDING,
    BodySettings,
    MediaValue,
    read_body,
    take_media,
)
from composition.http.changes import merge_changes
from composition.http.errors import format_error_event
from composition.http.faces import FaceFinder, FaceObject, FaceRequest
from composition.http.image_edit import ImageEditor, ImageEditRequest, Pictures
from composition.http.image_generation import ImageGenerationRequest, ImageGenerator
from composition.http.schemas import ImagesObject
from composition.http.sse import EventStream
from composition.http.uploads import DecodedPicture, Uploads
from composition.http.validation import parse_fields
from services.errors import InvalidParameter, NotFound
from services.flux.request import FluxRequest
from services.frames import Frames
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
    """

    def __init__(
        self,
        served: Registry,
        roles: Mapping[Role, str],
        uploads: Uploads,
        limits: BodySettings,
        transport: Transport,
    ) -> None:
        self._served = served
        self._roles = roles
        self._uploads = uploads
        self._limits = limits
        self._transport = transport

    async def create_image(self, request: Request) -> ImagesObject | Response:
        """Generate pictures. With `stream`, the response is a stream of events."""
        async with read_body(request, self._limits) as body:
            media, fields = take_media(ImageGenerationRequest.MEDIA, "", body)
            model, served = await self._choose_model("text-to-image", FluxRequest, fields)
            generator = ImageGenerator(model, served, await self._find_face_model(), self._transport)
            value = media.get("face")
            parsed = generator.parse_request(fields, has_face=value is not None)
            face = None if value is None else await self._decode_picture(value, request, "face")
        if parsed.stream:
            return await EventStream(generator.stream_events(parsed, face), format_error_event).start()
        return await generator.generate(parsed, face)

    async def edit_image(self, request: Request) -> ImagesObject:
        """Edit a picture."""
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
                place: await self._read_picture(value, request, place.partition("[")[0], parsed.shown_on)
                for place, value in given
            }
        image, *references = [each.frames for place, each in found.items() if place != "edges"]
        followed = found["edges"].frames if edges is not None else None
        changes = merge_changes({place: each.changes for place, each in found.items()})
        return await editor.edit(parsed, Pictures(image, references, followed, changes))

    async def find_face(self, request: Request) -> FaceObject:
        """Find the largest face in a picture."""
        async with read_body(request, self._limits) as body:
            media, fields = take_media(FaceRequest.MEDIA, "", body)
            model, _ = await self._choose_model("face", None, fields)
            parse_fields(FaceRequest, {**fields, **dict.fromkeys(media, PENDING)}, {})
            image = await self._decode_picture(media["image"], request, "image")
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

    async def _decode_picture(self, value: MediaValue, request: Request, param: str) -> Frames:
        return (await self._read_picture(value, request, param)).frames

    async def _read_picture(
        self, value: MediaValue, request: Request, param: str, background: str | None = None
    ) -> DecodedPicture:
        if isinstance(value, list):
            raise InvalidParameter(f"{param}: {ONLY_ONE_MEDIA_VALUE}", param=param)
        return await self._uploads.decode_picture(value, request.state.owner, param, background)
