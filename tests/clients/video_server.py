"""A small server that speaks the HTTP surface over real sockets, and breaks in the ways that a test asks for.

What it answers is made of the server's own classes, and what it is asked is read by them.
"""

import asyncio
import json
import os
import re
import socket
import sys
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from composition.graphs.identity import Identity
from composition.http.bodies import PENDING
from composition.http.content import ContentQuery
from composition.http.faces import Crop, FaceObject, FaceRequest
from composition.http.image_edit import ImageEditRequest
from composition.http.image_generation import ImageGenerationRequest
from composition.http.listing import PageQuery
from composition.http.provenance import ContentProvenanceCheckObject, ProvenanceRequest, describe_report
from composition.http.schemas import (
    IMAGE_EVENTS,
    Deleted,
    FileObject,
    ImageObject,
    ImagesObject,
    ListPage,
    ModelObject,
    VideoObject,
)
from composition.http.validation import parse_fields
from composition.media.marks.report import MarksReport
from composition.records.events import (
    JOB_EVENTS,
    StatusEvent,
    VideoError,
)
from services.errors import InvalidParameter, NotFound, ReelError, Unauthorized
from tests.clients.bodies import add_text, check_video, read_body
from tests.clients.stories import (
    CAPTION,
    CONTENT,
    CROP,
    CSV,
    DEBUG,
    EDITED,
    FRAMES,
    HD,
    IDENTITY,
    MARKS,
    MODELS,
    PAINTED,
    SCORES,
    STAGE,
    STORY,
    TABLE,
    THUMBNAIL,
    Told,
    painting,
    tell,
    zip_files,
)

EVENTS = {event.KIND: event for event in (*JOB_EVENTS, *IMAGE_EVENTS)}
DESCRIBED = ("v2v", "wan-i2v")
PAINTERS = ("flux", "qwen-edit", "hunyuan-dit")
"""Models whose jobs make a picture."""


@dataclass
class Script:
    """How the jobs go and how the server breaks."""

    story: list[Told] = field(default_factory=lambda: list(STORY))
    hold_at: int | None = None
    """The event before which a job stands still until it is cancelled."""
    die_at: int | None = None
    """The event before which the process ends."""
    polls: int = 0
    """How often a job is still in progress when it is asked for."""
    cut_events: list[int] = field(default_factory=list)
    """For each connection for events in turn, the number of events after which it breaks."""
    cut_content: list[int] = field(default_factory=list)
    """For each connection for content in turn, the number of bytes after which it breaks."""
    painting: list[Told] | None = None
    """What a stream of pictures tells, where it is other than the usual."""
    live: bool = False
    """Whether content is streamed as it would be while the job runs."""
    etag: str = '"one"'
    contents: dict[str, bytes] = field(default_factory=dict)
    """Variants that are other than the usual."""
    missing: set[str] = field(default_factory=set)
    """Variants that are not there."""
    about: dict[str, Any] = field(default_factory=dict)
    """What is known of a job, where it is other than the usual."""
    refuse: list[tuple[int, str]] = field(default_factory=list)
    """(status, body) for the next requests in turn."""
    api_key: str | None = None


class FromProxy(Exception):
    """A body as a proxy sends it."""

    def __init__(self, status: int, body: str) -> None:
        self.status = status
        self.body = body


class Broken(Exception):
    """Raised while a body is sent, so that the connection is closed in the middle of it."""


@dataclass
class Job:
    id: str
    fields: dict[str, Any]
    story: list[Told]
    polls: int
    told: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Seen:
    """A request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: dict[str, str]


class VideoServer:
    """The application and what it has seen."""

    def __init__(self, script: Script) -> None:
        self.begin(script)
        self.url = ""
        self.app = FastAPI(dependencies=[Depends(self._look)])
        for kind in (ReelError, FromProxy):
            self.app.add_exception_handler(kind, self._refuse)
        for method, path, answer in (
            ("GET", "/healthz", self.health),
            ("GET", "/v1/models", self.models),
            ("POST", "/v1/files", self.upload),
            ("GET", "/v1/files", self.list_files),
            ("GET", "/v1/files/{file_id}", self.file),
            ("DELETE", "/v1/files/{file_id}", self.delete_file),
            ("POST", "/v1/images/edits", self.edit_image),
            ("POST", "/v1/images/generations", self.paint),
            ("POST", "/v1/faces", self.face),
            ("POST", "/v1/content_provenance_checks", self.check_provenance),
            ("POST", "/v1/videos", self.create),
            ("GET", "/v1/videos", self.list_videos),
            ("GET", "/v1/videos/{video_id}", self.video),
            ("DELETE", "/v1/videos/{video_id}", self.delete_video),
            ("POST", "/v1/videos/{video_id}/cancel", self.cancel),
            ("GET", "/v1/videos/{video_id}/content", self.content),
            ("GET", "/v1/videos/{video_id}/events", self.events),
        ):
            self.app.add_api_route(path, answer, methods=[method], response_model=None)

    def begin(self, script: Script) -> None:
        """Forget everything and follow another script."""
        self.script = script
        self.seen: list[Seen] = []
        self.files: dict[str, tuple[FileObject, bytes]] = {}
        self.jobs: dict[str, Job] = {}
        self.edits: list[tuple[dict[str, Any], list[tuple[str, str | None, bytes]]]] = []
        """Of each edit, the fields and the files: (part, file name, bytes)."""
        self.asked: list[tuple[dict[str, Any], dict[str, bytes]]] = []
        """Of each request for painted pictures or a face, the fields and the files."""
        self.held = threading.Event()
        """Set when a job, or a stream of pictures, stands still."""
        self.left = threading.Event()
        """Set when whoever listened to a stream of pictures that stood still is gone."""

    def requests(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    async def _look(self, request: Request) -> None:
        self.seen.append(Seen(request.method, request.url.path, request.headers, dict(request.query_params)))
        if self.script.api_key and request.headers.get("authorization") != f"Bearer {self.script.api_key}":
            raise Unauthorized("the key is not known")
        if self.script.refuse:
            raise FromProxy(*self.script.refuse.pop(0))

    @staticmethod
    async def _refuse(_: Request, error: Exception) -> Response:
        if isinstance(error, FromProxy):
            return Response(error.body, error.status, media_type="text/html")
        assert isinstance(error, ReelError)
        told = {"message": error.message, "type": "invalid_request_error", "param": error.param, "code": error.code}
        return JSONResponse({"error": told}, error.status)

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def models(self) -> ListPage[ModelObject]:
        return ListPage(data=MODELS)

    async def upload(self, request: Request) -> FileObject:
        async with request.form() as form:
            sent = form["file"]
            assert isinstance(sent, UploadFile)
            data = await sent.read()
            purpose = str(form["purpose"])
        if not data:
            raise InvalidParameter("file: the file is empty", param="file")
        number = len(self.files) + 1
        file = FileObject(
            id=f"file_{number}",
            created_at=number,
            bytes=len(data),
            filename=sent.filename or "",
            purpose=purpose,
            kind="pictures" if data.startswith(b"PK") else "video",
            width=64,
            height=48,
            frames=10,
            rate="24000/1001",
            duration_s=0.4,
            codec="h264",
            damaged=None,
        )
        self.files[file.id] = file, data
        return file

    async def list_files(self, paging: Annotated[PageQuery, Query()]) -> dict[str, Any]:
        return _page([file.model_dump() for file, _ in self.files.values()], paging)

    async def file(self, file_id: str) -> FileObject:
        return _found(self.files, file_id)[0]

    async def delete_file(self, file_id: str) -> Deleted:
        _found(self.files, file_id)
        del self.files[file_id]
        return Deleted(id=file_id, object="file")

    async def create(self, request: Request) -> dict[str, Any]:
        fields, files = await read_body(request)
        for name, data in files:
            add_text(fields, name, data.decode("latin-1"))
        check_video(fields)
        job = Job(f"video_{len(self.jobs) + 1}", fields, list(self.script.story), self.script.polls)
        self.jobs[job.id] = job
        return self._shown(job)

    async def edit_image(self, request: Request) -> ImagesObject:
        async with request.form() as form:
            items = form.multi_items()
            fields = {name: value for name, value in items if isinstance(value, str)}
            files = [(name, part.filename, await part.read()) for name, part in items if isinstance(part, UploadFile)]
        asked = parse_fields(ImageEditRequest, {**fields, "image": PENDING}, {})
        self.edits.append((fields, files))
        data = b64encode(EDITED).decode()
        pictures = [ImageObject(b64_json=data, seed=7 + number, scores=SCORES) for number in range(asked.n)]
        return ImagesObject(created=1, data=pictures, size="64x48", facts={"seed": 7}, stages=[STAGE])

    async def paint(self, request: Request) -> Any:
        fields, files = await read_body(request)
        asked = parse_fields(ImageGenerationRequest, {**fields, **dict.fromkeys(dict(files), PENDING)}, {})
        self.asked.append((fields, dict(files)))
        if asked.stream:
            story = self.script.painting or painting(asked.n)
            return StreamingResponse(self._stream_image_events(story), media_type="text/event-stream")
        data = b64encode(PAINTED).decode()
        pictures = [ImageObject(b64_json=data, seed=7 + number) for number in range(asked.n)]
        facts = {"seed": 7, "notice": "the face is small"}
        return ImagesObject(created=1, data=pictures, size="64x48", facts=facts, stages=[STAGE])

    async def _stream_image_events(self, story: list[Told]) -> AsyncIterator[str]:
        cut = self.script.cut_events.pop(0) if self.script.cut_events else None
        yield ": begun\n\n"
        for number, (name, data) in enumerate(story):
            if number == cut:
                raise Broken
            if number == self.script.hold_at:
                self.held.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.left.set()
            yield _event(name, data)

    async def face(self, request: Request) -> FaceObject:
        fields, files = await read_body(request)
        asked = parse_fields(FaceRequest, {**fields, **dict.fromkeys(dict(files), PENDING)}, {})
        self.asked.append((fields, dict(files)))
        if asked.image == "file_none":
            raise InvalidParameter("image: there is no face in this picture", param="image")
        return FaceObject(
            identity=Identity.model_validate(IDENTITY),
            crop=Crop(b64_json=b64encode(CROP).decode()),
            faces=2,
            notice="2 faces were found, and the largest is taken",
            stages=[STAGE],
        )

    async def check_provenance(self, request: Request) -> ContentProvenanceCheckObject:
        fields, files = await read_body(request)
        asked = parse_fields(ProvenanceRequest, {**fields, **dict.fromkeys(dict(files), PENDING)}, {})
        self.asked.append((fields, dict(files)))
        if asked.file == "file_refused":
            raise InvalidParameter("file: the decoder crashed on the file", param="file")
        is_plain = asked.file == "file_none" or dict(files).get("file") == b"none"
        return describe_report(MarksReport() if is_plain else MARKS)

    async def list_videos(self, paging: Annotated[PageQuery, Query()]) -> dict[str, Any]:
        return _page([self._shown(job) for job in self.jobs.values()], paging)

    async def video(self, video_id: str, response: Response) -> dict[str, Any]:
        job = _found(self.jobs, video_id)
        response.headers["Retry-After"] = "1"
        response.headers["openai-poll-after-ms"] = "1"
        shown = self._shown(job)
        if job.polls:
            job.polls -= 1
            shown |= {"status": "in_progress", "progress": 40, "completed_at": None}
        return shown

    async def delete_video(self, video_id: str) -> Deleted:
        _found(self.jobs, video_id)
        del self.jobs[video_id]
        return Deleted(id=video_id, object="video.deleted")

    async def cancel(self, video_id: str) -> dict[str, Any]:
        job = _found(self.jobs, video_id)
        error = VideoError(code="cancelled", message="the job was cancelled")
        job.story[job.told :] = [tell(StatusEvent(status="failed", error=error))]
        job.cancelled.set()
        return self._shown(job)

    async def content(self, video_id: str, request: Request, query: Annotated[ContentQuery, Query()]) -> Response:
        job = _found(self.jobs, video_id)
        contents = {"video": CONTENT, "thumbnail": THUMBNAIL, "metrics": TABLE if query.format == "json" else CSV}
        contents |= {"image": PAINTED, "hd": HD, "frames": zip_files(FRAMES), "debug": zip_files(DEBUG)}
        contents |= self.script.contents
        there = {name: data for name, data in contents.items() if name not in self.script.missing}
        data = _found(there, query.variant or _main(job.fields))
        cut = self.script.cut_content.pop(0) if self.script.cut_content else None
        if self.script.live or query.variant in ("frames", "debug"):
            return StreamingResponse(_pieces(data, cut), media_type="video/mp4")
        headers = {"ETag": self.script.etag, "Content-Length": str(len(data)), "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if asked and request.headers.get("if-range") == self.script.etag:
            first = int(asked[1])
            headers |= {
                "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}",
                "Content-Length": str(len(data) - first),
            }
            return StreamingResponse(_pieces(data[first:], cut), 206, headers, "video/mp4")
        return StreamingResponse(_pieces(data, cut), 200, headers, "video/mp4")

    async def events(self, video_id: str, request: Request) -> Response:
        job = _found(self.jobs, video_id)
        cut = self.script.cut_events.pop(0) if self.script.cut_events else None
        after = int(request.headers.get("last-event-id", 0))
        return StreamingResponse(self._told(job, after, cut), media_type="text/event-stream")

    async def _told(self, job: Job, after: int, cut: int | None) -> AsyncIterator[str]:
        yield ": keep-alive\n\n"
        number = after
        while number < len(job.story):
            if number - after == cut:
                raise Broken
            if number == self.script.die_at:
                sys.stderr.write("the model fell over\n")
                sys.stderr.flush()
                os._exit(7)
            if number == self.script.hold_at and not job.cancelled.is_set():
                self.held.set()
                await job.cancelled.wait()
            name, data = job.story[number]
            number = job.told = number + 1
            yield f"id: {number}\n{_event(name, data)}"

    def _shown(self, job: Job) -> dict[str, Any]:
        ending = StatusEvent.model_validate(job.story[-1][1])
        shown = VideoObject(
            id=job.id,
            model=job.fields["model"],
            status=ending.status,
            progress=100 if ending.status == "completed" else 40,
            created_at=int(job.id.removeprefix("video_")),
            started_at=2,
            completed_at=3,
            size="64x48",
            seconds="0.3125",
            prompt=job.fields.get("prompt"),
            caption=CAPTION if job.fields["model"] in DESCRIBED else None,
            error=ending.error,
            stage=None,
            frames_done=5,
            frames_total=5,
            rate="16",
            eta_s=None,
            params={**job.fields, "seed": 7},
            facts={"seed": 7},
            main=_main(job.fields),
            results=["thumbnail", "video"],
            parent=None,
            stages=[STAGE],
            degraded=None,
        )
        told = VideoObject.model_validate({**shown.model_dump(), **self.script.about})
        return {**told.model_dump(mode="json"), "newer": "than the client"}


def _event(name: str, data: Any) -> str:
    """An event of a stream. One that the server has is as the server tells it, unless it is meant to be unreadable."""
    known: type[BaseModel] | None = EVENTS.get(name)
    assert known is None or not isinstance(data, dict) or data.keys() <= known.model_fields.keys(), (name, data)
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _main(fields: Mapping[str, Any]) -> str:
    """The variant that a job is for."""
    if fields["model"] == "full-pipeline":
        off = [name for name in ("animate", "upscale") if fields.get(name) in (False, "false")]
        return {"animate": "image", "upscale": "video"}[off[0]] if off else "hd"
    enlarged = fields["model"] == "realesrgan" and "image" in fields
    return "image" if enlarged or fields["model"] in PAINTERS else "video"


def _found(held: dict[str, Any], name: str) -> Any:
    if name not in held:
        raise NotFound(f"there is no {name!r}")
    return held[name]


def _page(entries: list[dict[str, Any]], paging: PageQuery) -> dict[str, Any]:
    entries = entries if paging.order == "asc" else entries[::-1]
    ids = [entry["id"] for entry in entries]
    start = ids.index(paging.after) + 1 if paging.after else 0
    stop = start + paging.limit
    page = ListPage[BaseModel](
        data=[],
        first_id=ids[start] if ids[start:] else None,
        last_id=ids[start:stop][-1] if ids[start:stop] else None,
        has_more=stop < len(entries),
    )
    return {**page.model_dump(), "data": entries[start:stop]}


async def _pieces(data: bytes, cut: int | None) -> AsyncIterator[bytes]:
    for start in range(0, len(data) if cut is None else cut, 500):
        yield data[start : start + 500 if cut is None else min(start + 500, cut)]
    if cut is not None:
        raise Broken


@contextmanager
def running(script: Script) -> Iterator[VideoServer]:
    """Serve in a thread of this process. The socket listens before the thread begins, so nobody has to wait."""
    server = VideoServer(script)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        web = uvicorn.Server(uvicorn.Config(server.app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield server
        finally:
            web.should_exit = True
            thread.join()


def serve_as_composition(script: Script) -> None:
    """Behave as `python -m composition serve --host H --port N`."""
    host, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--host", "--port"))
    with socket.create_server((host, int(port))) as listening:
        print(f"http://{host}:{listening.getsockname()[1]}", "ready", sep="\n", flush=True)
        uvicorn.Server(uvicorn.Config(VideoServer(script).app, log_level="critical")).run(sockets=[listening])
