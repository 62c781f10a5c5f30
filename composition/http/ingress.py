"""The front door: HTTP routes, and the one place where an error becomes a response."""

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from composition.configuration.origins import DoorSettings
from composition.configuration.registry import Registry
from composition.configuration.served import ServedModel
from composition.graphs.calls import Handle, Transport
from composition.graphs.graph import Need
from composition.http.bodies import ONE_OF, PENDING, BodySettings, MediaValue, is_number, read_body, taken_media
from composition.http.content import ContentQuery, byte_range, kept, live, scored, table, told, zipped
from composition.http.door import Door
from composition.http.faces import FaceFinder, FaceObject, FaceRequest
from composition.http.forms import Part
from composition.http.image_edit import Editor, ImageEditRequest
from composition.http.image_generation import ImageGenerationRequest, Painter
from composition.http.listing import Paging, describe_bodies, find_request, list_models
from composition.http.metrics import JobCollector
from composition.http.openapi import file_body, picture_body
from composition.http.orders import Orders
from composition.http.schemas import (
    Deleted,
    Entry,
    ErrorBody,
    ErrorDetail,
    FileObject,
    ImagesObject,
    ListPage,
    ModelObject,
    VideoObject,
    file_object,
    video_object,
)
from composition.http.sse import EventStream, said
from composition.http.uploads import Uploads
from composition.http.validation import parsed
from composition.media.limits import MediaLimits
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Store
from composition.records.tables import Job
from composition.variants import VIDEO
from services.errors import (
    InvalidParameter,
    NotFound,
    QueueFull,
    ReelError,
    Unauthorized,
)
from services.flux.request import FluxRequest
from services.frames import Frames
from services.json_text import unusable
from services.model import Role
from services.qwen_edit.request import EditRequest
from services.roles import FaceDetection

log = logging.getLogger("ray.serve.reelgraph.http")

RETRY_AFTER_S = 1
"""How soon a client that polls may ask again."""


class IngressSettings(BodySettings, DoorSettings):
    """What the configuration tells the front door."""

    database: str
    artifacts: ArtifactSettings
    auth: Literal["keys", "none"] = "keys"
    media: MediaLimits = MediaLimits()
    max_queued_jobs: int = Field(default=100, ge=1)
    """Jobs that may wait; one more is answered 429."""
    roles: Mapping[Role, str] = Field(default_factory=dict[Role, str])
    """Role → the model that answers at once where a request names none; by default the first that is served."""


class Ingress:
    """The HTTP application.

    Args:
        settings: see IngressSettings.
        served: what is served.
        transport: the exceptions of the calls.
    """

    def __init__(self, settings: IngressSettings, served: Registry, transport: Transport) -> None:
        self._settings = settings
        self._served = served
        self._transport = transport
        self._store = Store(settings.database)
        self._artifacts = Artifacts(settings.artifacts)
        self._uploads = Uploads(self._store, self._artifacts, settings.media, settings.max_body_bytes)
        kept_by = self._store, self._artifacts
        self._orders = Orders(served, self._uploads, kept_by)
        self._started = int(time.time())
        self._metrics = CollectorRegistry()
        self._metrics.register(JobCollector(self._store))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self.api()

    def api(self) -> FastAPI:
        """Build the application, with all of its routes."""
        api = FastAPI(title="reelgraph", version=version("reelgraph"), docs_url=None, redoc_url=None, openapi_url=None)
        for kind in (ReelError, RequestValidationError, HTTPException, Exception):
            api.add_exception_handler(kind, _answer_error)
        self._add_door(api)
        api.add_api_route("/healthz", self.health, methods=["GET"])
        api.add_api_route("/metrics", self.metrics, methods=["GET"], response_class=PlainTextResponse)
        describe = partial(self.describe_api, api)
        api.add_api_route("/openapi.json", describe, methods=["GET"], include_in_schema=False)
        checks = [Depends(self._authorise), Depends(_check_texts)]
        v1 = APIRouter(prefix="/v1", dependencies=checks, responses=_ERRORS)
        v1.add_api_route("/models", self.list_models, methods=["GET"])
        v1.add_api_route("/files", self.create_file, methods=["POST"], openapi_extra=file_body())
        v1.add_api_route("/files", self.list_files, methods=["GET"])
        v1.add_api_route("/files/{file_id}", self.get_file, methods=["GET"])
        v1.add_api_route("/files/{file_id}", self.delete_file, methods=["DELETE"])
        edit = picture_body(ImageEditRequest)
        v1.add_api_route("/images/edits", self.edit_image, methods=["POST"], openapi_extra=edit)
        v1.add_api_route(
            "/images/generations",
            self.create_image,
            methods=["POST"],
            response_model=ImagesObject,
            responses={200: {"content": {"text/event-stream": {}}}},
            openapi_extra=picture_body(ImageGenerationRequest),
        )
        face = picture_body(FaceRequest)
        v1.add_api_route("/faces", self.find_face, methods=["POST"], openapi_extra=face)
        v1.add_api_route("/videos", self.create_video, methods=["POST"])
        v1.add_api_route("/videos", self.list_videos, methods=["GET"])
        v1.add_api_route("/videos/{video_id}", self.get_video, methods=["GET"])
        v1.add_api_route("/videos/{video_id}", self.delete_video, methods=["DELETE"])
        v1.add_api_route("/videos/{video_id}/cancel", self.cancel_video, methods=["POST"])
        for methods in (["GET"], ["HEAD"]):
            v1.add_api_route("/videos/{video_id}/content", self.get_content, methods=methods, response_class=Response)
        v1.add_api_route("/videos/{video_id}/events", self.get_events, methods=["GET"], response_class=Response)
        api.include_router(v1)
        return api

    def _add_door(self, api: FastAPI) -> None:
        """Let no request in that the settings refuse; pages of other origins that they let in may read the answers."""
        origins = self._settings.allowed_origins
        if origins:
            any_of = ("*",)
            api.add_middleware(
                CORSMiddleware, origins, allow_methods=any_of, allow_headers=any_of, expose_headers=any_of
            )
        has_keys = self._settings.auth != "none"
        api.add_middleware(Door, self._settings, _answer_error, has_keys=has_keys)

    async def _authorise(self, request: Request) -> None:
        """Note whose request it is. Raises Unauthorized."""
        request.state.owner = ""
        if self._settings.auth == "none":
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("Authorization: give an API key, as in `Authorization: Bearer rg-…`")
        owner = await asyncio.to_thread(self._store.find_owner, key.strip())
        if owner is None:
            raise Unauthorized("Authorization: this API key is not known")
        request.state.owner = owner

    # The server itself.

    async def health(self) -> dict[str, str]:
        """Whether the front door is open and the database answers."""
        await asyncio.to_thread(self._store.check_connection)
        return {"status": "ok"}

    async def metrics(self) -> Response:
        """Prometheus' text format."""
        text = await asyncio.to_thread(generate_latest, self._metrics)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def describe_api(self, api: FastAPI) -> Response:
        """The OpenAPI document, with the defaults and limits of what is served now.

        `POST /v1/videos` has a body for each name by which a job can be asked for.
        """
        snapshot = await asyncio.to_thread(self._served.read_snapshot)
        bodies = describe_bodies(snapshot, self._settings.roles)
        document = {**api.openapi()}
        document["paths"] = {
            path: {**route, "post": {**route["post"], **bodies[path]}} if path in bodies else route
            for path, route in document["paths"].items()
        }
        return JSONResponse(document)

    async def list_models(self) -> ListPage[ModelObject]:
        """Everything that can be asked for by name, and whether it is ready."""
        snapshot = await asyncio.to_thread(self._served.read_snapshot)
        return ListPage(data=list_models(snapshot, self._started))

    # Files.

    async def create_file(self, request: Request) -> FileObject:
        """Take a file in, once it is known to decode."""
        async with read_body(request, self._settings) as body:
            part = body.fields.get("file")
            if not isinstance(part, Part):
                raise InvalidParameter("file: one multipart part of this name is required", param="file")
            purpose = str(body.fields.get("purpose", "input"))[:64]
            return file_object(await self._uploads.admit(part, request.state.owner, purpose, "file"))

    async def list_files(self, request: Request, page: Annotated[Paging, Query()]) -> ListPage[FileObject]:
        """The files of this key's owner."""
        files, more = await asyncio.to_thread(self._store.list_files, request.state.owner, page.page())
        return _list([file_object(file) for file in files], [file.id for file in files], more)

    async def get_file(self, request: Request, file_id: str) -> FileObject:
        """What is known of a file."""
        return file_object(await asyncio.to_thread(self._store.get_file, file_id, request.state.owner))

    async def delete_file(self, request: Request, file_id: str) -> Deleted:
        """Remove a file that no unfinished job needs."""
        await self._uploads.remove(file_id, request.state.owner)
        return Deleted(id=file_id, object="file")

    # Videos.

    async def create_video(self, request: Request) -> VideoObject:
        """Store a job that makes a video; it is run as soon as there is room."""
        await asyncio.to_thread(self._store.check_queue, self._settings.max_queued_jobs)
        async with read_body(request, self._settings) as body:
            job = await self._orders.job(body, request.state.owner)
        job = await asyncio.to_thread(self._store.create_job, job, self._settings.max_queued_jobs)
        log.info("job created", extra={"job": job.id, "model": job.model})
        return video_object(job, [])

    async def list_videos(self, request: Request, page: Annotated[Paging, Query()]) -> ListPage[VideoObject]:
        """The jobs of this key's owner."""
        jobs, more = await asyncio.to_thread(self._store.list_jobs, request.state.owner, page.page())
        ids = [job.id for job in jobs]
        stages = await asyncio.to_thread(self._store.list_stages, ids)
        parts = await asyncio.to_thread(self._store.list_children, ids)
        return _list([video_object(job, stages[job.id], parts[job.id]) for job in jobs], ids, more)

    async def get_video(self, request: Request, response: Response, video_id: str) -> VideoObject:
        """How a job stands."""
        job = await self._job(request, video_id)
        if not job.has_ended:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
            response.headers["openai-poll-after-ms"] = str(RETRY_AFTER_S * 1000)
        return await self._shown(job)

    async def cancel_video(self, request: Request, video_id: str) -> VideoObject:
        """Stop a job and keep what there is of it."""
        return await self._shown(await asyncio.to_thread(self._store.stop_job, video_id, request.state.owner))

    async def delete_video(self, request: Request, video_id: str) -> Deleted:
        """Stop a job if it runs, and remove it with all that it made."""
        await asyncio.to_thread(self._store.stop_job, video_id, request.state.owner, delete_it=True)
        return Deleted(id=video_id, object="video.deleted")

    async def get_content(self, request: Request, video_id: str, query: Annotated[ContentQuery, Query()]) -> Response:
        """A result, or a range of it; without a variant that which the job is for, mostly `video`.

        Of a video that is still being made, what exists so far and then what is added; of a job that was cancelled or
        failed, what there was by then. `frames` and `debug` are zip archives of PNGs, and `metrics` a table of the
        frames' scores; they hold what there is when they are asked for.
        """
        job = await self._job(request, video_id)
        variant, form = query.variant or job.main or VIDEO, query.format
        if form is not None and variant != "metrics":
            raise InvalidParameter(f"format: only metrics have one, got {form!r}", param="format")
        if variant in job.results and variant in ("frames", "debug", "metrics"):
            return await self._gathered(job, variant, form or "csv")
        key = job.results.get(variant)
        if key is not None:
            return await self._ranged(request, job, variant, key)
        videos = await asyncio.to_thread(self._videos, job)
        if variant not in videos:
            there = ", ".join(sorted({*job.results, *videos})) or "nothing yet"
            raise NotFound(f"variant: {job.id} has no {variant[:60]!r}; there is {there}", param="variant")
        if job.has_ended and not await asyncio.to_thread(self._store.list_segments, job.id, variant=variant):
            raise NotFound(f"the job has ended before there was a frame: {job.error_message or job.status}")
        if request.method == "HEAD":
            return Response(media_type="video/mp4")
        follow = kept if job.status == "failed" else live
        chunks = follow(self._store, self._artifacts, job.id, variant)
        return StreamingResponse(chunks, media_type="video/mp4", headers={"Cache-Control": "no-store"})

    async def get_events(self, request: Request, video_id: str) -> Response:
        """Server-sent events, from the first or from behind `Last-Event-ID`."""
        job = await self._job(request, video_id)
        after = request.headers.get("last-event-id", "0")
        if not is_number(after):
            raise InvalidParameter(f"Last-Event-ID: must be a number, got {after[:60]!r}", param="Last-Event-ID")
        if job.has_ended and int(after) >= job.last_event:
            return Response(status_code=204)  # by which an EventSource knows not to come back
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(told(self._store, job.id, int(after)), media_type="text/event-stream", headers=headers)

    async def _gathered(self, job: Job, variant: str, form: str) -> Response:
        """What is put together of a job's stills."""
        stills = await asyncio.to_thread(self._store.list_stills, job.id, frames=variant != "debug")
        headers = {"Cache-Control": "no-store"}
        if variant != "metrics":
            chunks = zipped(self._artifacts, stills, named=variant == "debug")
            return StreamingResponse(chunks, media_type="application/zip", headers=headers)
        if form == "csv":
            return Response(table(stills), media_type="text/csv; charset=utf-8", headers=headers)
        return JSONResponse({"video": job.id, "facts": job.facts, "frames": scored(stills)}, headers=headers)

    async def edit_image(self, request: Request) -> ImagesObject:
        """Edit one picture and wait for it. Leaving stops the work."""
        async with read_body(request, self._settings) as body:
            media, fields = taken_media(ImageEditRequest.MEDIA, "", body)
            editor = Editor(*await self._choose("guided-edit", EditRequest, fields), self._transport)
            given = media.get("image")
            values = given if isinstance(given, list) else [given] if given is not None else []
            asked = editor.asked(fields, len(values))
            pictures = [await self._uploads.picture(value, request.state.owner, "image") for value in values]
        return await editor.edit(asked, pictures)

    def _videos(self, job: Job) -> set[str]:
        """The variants that are videos, made or yet to be made."""
        found = find_request(job.model, self._served.read_snapshot())
        return (
            {VIDEO} if found is None else {name for name in (VIDEO, *found.OTHERS) if name in found.makes(job.params)}
        )

    async def create_image(self, request: Request) -> ImagesObject | Response:
        """Paint pictures and wait for them, or with `stream` be told of each. Leaving stops the work."""
        async with read_body(request, self._settings) as body:
            media, fields = taken_media(ImageGenerationRequest.MEDIA, "", body)
            painter = Painter(
                *await self._choose("text-to-image", FluxRequest, fields), await self._find_faces(), self._transport
            )
            given = media.get("face")
            asked = painter.asked(fields, face=given is not None)
            face = None if given is None else await self._picture(given, request, "face")
        if asked.stream:
            return await EventStream(painter.events(asked, face), _error_event).begun()
        return await painter.paint(asked, face)

    async def find_face(self, request: Request) -> FaceObject:
        """Find the largest face in a picture and wait for it; nothing is stored."""
        async with read_body(request, self._settings) as body:
            media, fields = taken_media(FaceRequest.MEDIA, "", body)
            model, _ = await self._choose("face", None, fields)
            parsed(FaceRequest, {**fields, **dict.fromkeys(media, PENDING)}, {})
            image = await self._picture(media["image"], request, "image")
        return await FaceFinder(model, self._transport).find(image)

    async def _choose(
        self, role: Role, asked_with: type[BaseModel] | None, fields: Mapping[str, Any]
    ) -> tuple[Handle[Any], ServedModel]:
        """Return the model that takes a role in a request that is answered at once.

        Raises NotFound, InvalidParameter, ServiceBusy.
        """
        name = fields.get("model")
        snapshot = await asyncio.to_thread(self._served.read_snapshot)
        configured = self._settings.roles.get(role)
        served = snapshot.choose_model(Need(role, asked_with), None if name is None else str(name), configured)
        return await asyncio.to_thread(self._served.open_model, served), served

    async def _find_faces(self) -> Handle[FaceDetection] | None:
        """Return the model that finds faces; None where none is served."""
        try:
            return (await self._choose("face", None, {}))[0]
        except NotFound:
            return None

    async def _picture(self, given: MediaValue, request: Request, param: str) -> Frames:
        if isinstance(given, list):
            raise InvalidParameter(f"{param}: {ONE_OF}, and only one of them", param=param)
        return await self._uploads.picture(given, request.state.owner, param)

    async def _job(self, request: Request, video_id: str) -> Job:
        return await asyncio.to_thread(self._store.get_job, video_id, request.state.owner)

    async def _shown(self, job: Job) -> VideoObject:
        stages = await asyncio.to_thread(self._store.list_stages, [job.id])
        parts = await asyncio.to_thread(self._store.list_children, [job.id])
        return video_object(job, stages[job.id], parts[job.id])

    async def _ranged(self, request: Request, job: Job, variant: str, key: str) -> Response:
        size = await asyncio.to_thread(self._artifacts.get_size, key)
        etag = f'"{job.id}-{variant}"'
        headers = {"Accept-Ranges": "bytes", "ETag": etag, "Cache-Control": "private, max-age=3600"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        wanted = request.headers.get("range") if request.headers.get("if-range", etag) == etag else None
        span = byte_range(wanted, size)
        start, stop = span or (0, size)
        headers["Content-Length"] = str(stop - start)
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        status, kind = (206 if span else 200), _MEDIA_TYPES[key.rpartition(".")[2]]
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=kind)
        chunks = self._artifacts.read(key, start, stop)
        return StreamingResponse(chunks, status_code=status, headers=headers, media_type=kind)


def _list(data: list[Entry], ids: list[str], more: bool) -> ListPage[Entry]:
    return ListPage(data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=more)


async def _check_texts(request: Request) -> None:
    """Raise InvalidParameter for what no database can look for in the path or the query."""
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if reason := unusable(name) or unusable(value):
            shown = repr(name[:60])[1:-1]
            raise InvalidParameter(f"{shown}: {reason}", param=shown)


async def _answer_error(request: Request, error: Exception) -> Response:
    """Make the response of an error: OpenAI's shape, never a traceback."""
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = "10"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPException):
        headers.update(error.headers or {})
    status, detail = _described(error, str(request.scope.get("path")))
    return JSONResponse(ErrorBody(error=detail).model_dump(), status, headers)


def _error_event(error: BaseException) -> str:
    """Make the last event of a stream that fails when its status is sent already."""
    status, detail = _described(error, "event stream")
    return said("error", {"type": "error", "status": status, "error": detail.model_dump()})


def _described(error: BaseException, path: str) -> tuple[int, ErrorDetail]:
    """An error's HTTP status, and what is said of it."""
    param: str | None = None
    if isinstance(error, ReelError):
        status, code, message, param = error.status, error.code, error.message, error.param
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param = str(first["loc"][-1])
        status, code, message = 422, InvalidParameter.code, f"{param}: {first['msg']}"
    elif isinstance(error, HTTPException):
        status, code, message = error.status_code, "http_error", str(error.detail)
    else:
        log.error("request failed", extra={"path": path}, exc_info=error)
        status, code, message = 500, "internal_error", "the server made a mistake; it has been noted"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return status, ErrorDetail(message=message, type=kind, param=param, code=code)


_MEDIA_TYPES = {"mp4": "video/mp4", "jpg": "image/jpeg", "png": "image/png"}
_ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorBody}}
