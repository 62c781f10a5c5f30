"""The HTTP application: its settings and its routes."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import Field
from starlette.middleware.cors import CORSMiddleware

from composition.configuration.origins import DoorSettings
from composition.configuration.registry import Registry
from composition.graphs.calls import Transport
from composition.graphs.fields import ENCODING
from composition.http.bodies import BodySettings, is_number, read_body
from composition.http.content import ContentQuery, stream_events
from composition.http.door import Door
from composition.http.downloads import Downloads
from composition.http.errors import HANDLED, respond_to_error
from composition.http.faces import FaceRequest
from composition.http.forms import Part
from composition.http.image_edit import ImageEditRequest
from composition.http.image_generation import ImageGenerationRequest
from composition.http.listing import PageQuery, describe_bodies, list_models
from composition.http.metrics import JobCollector
from composition.http.openapi import file_body, picture_body
from composition.http.orders import JobBuilder
from composition.http.provenance import ProvenanceRequest, ProvenanceRoutes
from composition.http.renditions import Renditions
from composition.http.schemas import (
    Deleted,
    Entry,
    ErrorBody,
    FileObject,
    ImagesObject,
    ListPage,
    ModelObject,
    VideoObject,
    file_object,
    video_object,
)
from composition.http.synchronous import SynchronousRoutes
from composition.http.uploads import Uploads
from composition.jobs.publishing import OutputSettings
from composition.media.encoding import Encoding
from composition.media.limits import MAX_CONVERSION_PIXELS, MediaLimits
from composition.media.marks.marker import Marker
from composition.media.marks.settings import MARKS_OFF, MarksSettings
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Store
from composition.records.tables import Job
from services.errors import InvalidParameter, Unauthorized
from services.json_text import unusable
from services.model import Role

log = logging.getLogger("ray.serve.reelgraph.http")

RETRY_AFTER_S = 1
"""Interval at which clients should poll a job, in seconds."""


class IngressSettings(BodySettings, DoorSettings):
    """Settings of the HTTP application."""

    database: str
    """URL of the database."""
    artifacts: ArtifactSettings
    auth: Literal["keys", "none"] = "keys"
    """Whether requests need an API key."""
    media: MediaLimits = MediaLimits()
    max_queued_jobs: int = Field(default=100, ge=1)
    """Maximum number of queued jobs; a request for another one is answered 429."""
    encoding: Encoding = Encoding()
    """Default of the field `encoding` of requests."""
    max_conversion_pixels: int = Field(default=MAX_CONVERSION_PIXELS, ge=1)
    """Maximum number of pixels, frames × width × height, of a video that is converted to GIF, WebP or PNG files."""
    roles: Mapping[Role, str] = Field(default_factory=dict[Role, str])
    """Role → id of the model that answers synchronous requests if they name none; by default the first served one."""
    marks: MarksSettings = MARKS_OFF
    """What finished files say about how they were made, and whose manifests are trusted."""
    state: Path = Path()
    """The state folder, in which the key is kept that signs the marks."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Default values of fields of all requests for videos."""
        encoding = self.encoding.model_dump(mode="json", exclude_unset=True)
        return {ENCODING: encoding} if encoding else {}


class Ingress:
    """The HTTP application.

    Args:
        settings: see IngressSettings.
        served: the served graphs and models.
        transport: the exceptions of calls to models.
    """

    def __init__(self, settings: IngressSettings, served: Registry, transport: Transport) -> None:
        self._settings = settings
        self._served = served
        self._store = Store(settings.database)
        outputs = OutputSettings(marker=Marker(settings.marks, settings.state, settings.media))
        artifacts = Artifacts(settings.artifacts)
        self._uploads = Uploads(self._store, artifacts, settings.media, settings.max_body_bytes)
        self._defaults = settings.defaults
        self._jobs = JobBuilder(served, self._uploads, self._store, artifacts, self._defaults)
        renditions = Renditions(self._store, artifacts, settings.media, settings.max_conversion_pixels, outputs)
        self._downloads = Downloads(self._store, artifacts, served, renditions)
        self._synchronous = SynchronousRoutes(served, settings.roles, self._uploads, settings, transport, outputs)
        self._provenance = ProvenanceRoutes(self._uploads, settings, settings.marks)
        self._started = int(time.time())
        self._metrics = CollectorRegistry()
        self._metrics.register(JobCollector(self._store))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self.build_app()

    def build_app(self) -> FastAPI:
        """Return the ASGI application with all routes."""
        app = FastAPI(title="reelgraph", version=version("reelgraph"), docs_url=None, redoc_url=None, openapi_url=None)
        for kind in HANDLED:
            app.add_exception_handler(kind, respond_to_error)
        self._add_middleware(app)
        app.add_api_route("/healthz", self.health, methods=["GET"])
        app.add_api_route("/metrics", self.metrics, methods=["GET"], response_class=PlainTextResponse)
        describe = partial(self.describe_api, app)
        app.add_api_route("/openapi.json", describe, methods=["GET"], include_in_schema=False)
        checks = [Depends(self._authorise), Depends(_check_path_and_query)]
        v1 = APIRouter(prefix="/v1", dependencies=checks, responses=_ERRORS)
        v1.add_api_route("/models", self.list_models, methods=["GET"])
        self._add_file_routes(v1)
        self._add_synchronous_routes(v1)
        self._add_video_routes(v1)
        app.include_router(v1)
        return app

    def _add_file_routes(self, v1: APIRouter) -> None:
        v1.add_api_route("/files", self.create_file, methods=["POST"], openapi_extra=file_body())
        v1.add_api_route("/files", self.list_files, methods=["GET"])
        v1.add_api_route("/files/{file_id}", self.get_file, methods=["GET"])
        v1.add_api_route("/files/{file_id}", self.delete_file, methods=["DELETE"])

    def _add_synchronous_routes(self, v1: APIRouter) -> None:
        edit = picture_body(ImageEditRequest)
        v1.add_api_route("/images/edits", self._synchronous.edit_image, methods=["POST"], openapi_extra=edit)
        v1.add_api_route(
            "/images/generations",
            self._synchronous.create_image,
            methods=["POST"],
            response_model=ImagesObject,
            responses={200: {"content": {"text/event-stream": {}}}},
            openapi_extra=picture_body(ImageGenerationRequest),
        )
        face = picture_body(FaceRequest)
        v1.add_api_route("/faces", self._synchronous.find_face, methods=["POST"], openapi_extra=face)
        check = picture_body(ProvenanceRequest)
        v1.add_api_route(
            "/content_provenance_checks", self._provenance.check_content, methods=["POST"], openapi_extra=check
        )

    def _add_video_routes(self, v1: APIRouter) -> None:
        v1.add_api_route("/videos", self.create_video, methods=["POST"])
        v1.add_api_route("/videos", self.list_videos, methods=["GET"])
        v1.add_api_route("/videos/{video_id}", self.get_video, methods=["GET"])
        v1.add_api_route("/videos/{video_id}", self.delete_video, methods=["DELETE"])
        v1.add_api_route("/videos/{video_id}/cancel", self.cancel_video, methods=["POST"])
        for methods in (["GET"], ["HEAD"]):
            v1.add_api_route("/videos/{video_id}/content", self.get_content, methods=methods, response_class=Response)
        v1.add_api_route("/videos/{video_id}/events", self.get_events, methods=["GET"], response_class=Response)

    def _add_middleware(self, app: FastAPI) -> None:
        """Reject requests that the settings do not allow; let pages of allowed origins read the responses."""
        origins = self._settings.allowed_origins
        if origins:
            every = ("*",)
            app.add_middleware(CORSMiddleware, origins, allow_methods=every, allow_headers=every, expose_headers=every)
        has_keys = self._settings.auth != "none"
        app.add_middleware(Door, self._settings, respond_to_error, has_keys=has_keys)

    async def _authorise(self, request: Request) -> None:
        """Set `request.state.owner` to the owner of the API key, or to "" without keys. Raises Unauthorized."""
        request.state.owner = ""
        if self._settings.auth == "none":
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("Authorization: an API key is required, as in `Authorization: Bearer rg-…`")
        owner = await asyncio.to_thread(self._store.find_owner, key.strip())
        if owner is None:
            raise Unauthorized("Authorization: the API key is not valid")
        request.state.owner = owner

    # Server.

    async def health(self) -> dict[str, str]:
        """Return `ok` if the database can be reached."""
        await asyncio.to_thread(self._store.check_connection)
        return {"status": "ok"}

    async def metrics(self) -> Response:
        """Return the metrics in Prometheus' text format."""
        text = await asyncio.to_thread(generate_latest, self._metrics)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def describe_api(self, app: FastAPI) -> Response:
        """Return the OpenAPI document, with the defaults and limits of the graphs and models that are served now.

        The body of `POST /v1/videos` has one schema for each graph or model that `model` can name.
        """
        snapshot = await asyncio.to_thread(self._served.read_snapshot)
        bodies = describe_bodies(snapshot, self._settings.roles, self._defaults)
        document = {**app.openapi()}
        document["paths"] = {
            path: {**route, "post": {**route["post"], **bodies[path]}} if path in bodies else route
            for path, route in document["paths"].items()
        }
        return JSONResponse(document)

    async def list_models(self) -> ListPage[ModelObject]:
        """List the graphs and models that requests can name, and whether they are ready."""
        snapshot = await asyncio.to_thread(self._served.read_snapshot)
        return ListPage(data=list_models(snapshot, self._started, self._defaults))

    # Files.

    async def create_file(self, request: Request) -> FileObject:
        """Store a file after checking that it can be decoded."""
        async with read_body(request, self._settings) as body:
            part = body.fields.get("file")
            if not isinstance(part, Part):
                raise InvalidParameter("file: must be exactly one multipart form part", param="file")
            purpose = str(body.fields.get("purpose", "input"))[:64]
            return file_object(
                await self._uploads.store_part(part, request.state.owner, purpose, "file", takes_sound=True)
            )

    async def list_files(self, request: Request, query: Annotated[PageQuery, Query()]) -> ListPage[FileObject]:
        """List the caller's files."""
        files, has_more = await asyncio.to_thread(self._store.list_files, request.state.owner, query.page)
        return _make_page([file_object(file) for file in files], [file.id for file in files], has_more=has_more)

    async def get_file(self, request: Request, file_id: str) -> FileObject:
        """Return a file's properties."""
        return file_object(await asyncio.to_thread(self._store.get_file, file_id, request.state.owner))

    async def delete_file(self, request: Request, file_id: str) -> Deleted:
        """Delete a file. A file that an unfinished job uses is not deleted."""
        await self._uploads.delete_file(file_id, request.state.owner)
        return Deleted(id=file_id, object="file")

    # Videos.

    async def create_video(self, request: Request) -> VideoObject:
        """Create a job that makes a video. It is queued until the models have capacity."""
        await asyncio.to_thread(self._store.check_queue, self._settings.max_queued_jobs)
        async with read_body(request, self._settings) as body:
            job = await self._jobs.build_job(body, request.state.owner)
        job = await asyncio.to_thread(self._store.create_job, job, self._settings.max_queued_jobs)
        log.info("job created", extra={"job": job.id, "model": job.model})
        return video_object(job, [])

    async def list_videos(self, request: Request, query: Annotated[PageQuery, Query()]) -> ListPage[VideoObject]:
        """List the caller's jobs."""
        jobs, has_more = await asyncio.to_thread(self._store.list_jobs, request.state.owner, query.page)
        return _make_page(await self._make_video_objects(jobs), [job.id for job in jobs], has_more=has_more)

    async def get_video(self, request: Request, response: Response, video_id: str) -> VideoObject:
        """Return a job's status and properties."""
        job = await self._find_job(request, video_id)
        if not job.has_ended:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
            response.headers["openai-poll-after-ms"] = str(RETRY_AFTER_S * 1000)
        return (await self._make_video_objects([job]))[0]

    async def cancel_video(self, request: Request, video_id: str) -> VideoObject:
        """Stop a job and keep its results so far."""
        job = await asyncio.to_thread(self._store.stop_job, video_id, request.state.owner)
        return (await self._make_video_objects([job]))[0]

    async def delete_video(self, request: Request, video_id: str) -> Deleted:
        """Stop a job and delete it with all its results."""
        await asyncio.to_thread(self._store.stop_job, video_id, request.state.owner, delete_it=True)
        return Deleted(id=video_id, object="video.deleted")

    async def get_content(self, request: Request, video_id: str, query: Annotated[ContentQuery, Query()]) -> Response:
        """Return one variant of a job's content, or a range of it; by default the job's main variant, mostly `video`.

        For a video that is still being made, the response streams the frames that exist and then each new one. For a
        job that was cancelled or failed, it has the frames made until then. A complete video is also available as GIF,
        WebP or a zip archive of PNG files, and a picture as JPEG or WebP (`format`). `frames` and `debug` are zip
        archives of PNG files, and `metrics` is a table of the frames of a video, with what was measured of each, its
        faults and its scores; they cover the frames that exist at the time of the request.
        """
        return await self._downloads.respond(request, await self._find_job(request, video_id), query)

    async def get_events(self, request: Request, video_id: str) -> Response:
        """Stream a job's events, from the first or from the one after `Last-Event-ID`."""
        job = await self._find_job(request, video_id)
        after = request.headers.get("last-event-id", "0")
        if not is_number(after):
            raise InvalidParameter(f"Last-Event-ID: must be a number, got {after[:60]!r}", param="Last-Event-ID")
        if job.has_ended and int(after) >= job.last_event:
            return Response(status_code=204)  # tells an EventSource not to reconnect
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = stream_events(self._store, job.id, int(after))
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _find_job(self, request: Request, video_id: str) -> Job:
        return await asyncio.to_thread(self._store.get_job, video_id, request.state.owner)

    async def _make_video_objects(self, jobs: Sequence[Job]) -> list[VideoObject]:
        ids = [job.id for job in jobs]
        stages = await asyncio.to_thread(self._store.list_stages, ids)
        children = await asyncio.to_thread(self._store.list_children, ids)
        return [video_object(job, stages[job.id], children[job.id]) for job in jobs]


def _make_page(data: list[Entry], ids: list[str], *, has_more: bool) -> ListPage[Entry]:
    return ListPage(data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)


async def _check_path_and_query(request: Request) -> None:
    """Raise InvalidParameter if the path or the query contains characters that the database cannot store."""
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if reason := unusable(name) or unusable(value):
            shown = repr(name[:60])[1:-1]
            raise InvalidParameter(f"{shown}: {reason}", param=shown)


_ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorBody}}
