"""Responses with the content of a job: a stored result or a range of it, or a stream of what exists so far."""

import asyncio
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from composition.configuration.registry import Registry
from composition.http.content import (
    ContentQuery,
    follow_video,
    format_metrics_csv,
    list_metrics,
    parse_range,
    read_video,
    stream_zip,
)
from composition.http.listing import find_graph
from composition.http.renditions import Form, Renditions, check_format
from composition.media.findings import Judgement, judge_parts
from composition.media.formats import ContentFormat
from composition.records.artifacts import Artifacts
from composition.records.store import Store
from composition.records.tables import Job
from composition.variants import VIDEO
from services.errors import Conflict, InvalidParameter, NotFound

MEDIA_TYPES = {
    "mp4": "video/mp4",
    "jpg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "zip": "application/zip",
}
"""Extension of a stored result → its `Content-Type`."""
METRICS = "metrics"
"""The variant with the scores and signals of a video's frames."""
FRAME_VARIANTS = ("frames", "debug", METRICS)
"""Variants that are put together from a job's stored frames when they are requested."""


class Downloads:
    """Builds the responses of `GET /v1/videos/{id}/content`.

    Args:
        store: the database.
        artifacts: the artifact store.
        served: the served graphs and models, which define the variants of a job that is not finished.
        renditions: converts results to other formats.
    """

    def __init__(self, store: Store, artifacts: Artifacts, served: Registry, renditions: Renditions) -> None:
        self._store = store
        self._artifacts = artifacts
        self._served = served
        self._renditions = renditions

    async def respond(self, request: Request, job: Job, query: ContentQuery) -> Response:
        """Return a response with one variant of a job's content.

        Args:
            request: its method and its headers `Range`, `If-Range` and `If-None-Match` are used.
            job: the job.
            query: the variant and its format.

        Raises:
            NotFound: the job has no such variant, or ended before its first frame.
            InvalidParameter: the variant does not exist in this format.
            LimitExceeded: the video is too long or too large for this format.
            Conflict: the variant will exist in this format only when it is complete.
            RangeNotSatisfiable: the range is outside the content.
        """
        variant, form = query.variant or job.main or VIDEO, query.format
        if variant in FRAME_VARIANTS:
            _check_frame_format(variant, form)
        if variant == METRICS:
            return await self._respond_with_metrics(job, is_json=form == "json")
        if variant in job.results and variant in FRAME_VARIANTS:
            return await self._respond_with_frames(job, variant)
        key = job.results.get(variant)
        if key is None:
            return await self._respond_with_segments(request, job, variant, form)
        if form is not None:
            key = await self._renditions.find_file(job, variant, cast("Form", form))
        return await self._respond_with_file(request, job, variant, key)

    async def _respond_with_frames(self, job: Job, variant: str) -> Response:
        stills = await asyncio.to_thread(self._store.list_stills, job.id, frames=variant != "debug")
        chunks = stream_zip(self._artifacts, stills, with_names=variant == "debug")
        return StreamingResponse(chunks, media_type="application/zip", headers={"Cache-Control": "no-store"})

    async def _respond_with_metrics(self, job: Job, *, is_json: bool) -> Response:
        """Return a response with the scores and signals of the frames that exist."""
        videos = await asyncio.to_thread(self._judge_videos, job)
        main = job.main if job.main in videos else VIDEO
        if main not in videos:
            raise NotFound(f"variant: {job.id} has no metrics: no frame has been measured yet", param="variant")
        stills = await asyncio.to_thread(self._store.list_stills, job.id, frames=True) if main == VIDEO else []
        headers = {"Cache-Control": "no-store"}
        if not is_json:
            text = await asyncio.to_thread(format_metrics_csv, stills, videos[main])
            return Response(text, media_type="text/csv; charset=utf-8", headers=headers)
        frames = await asyncio.to_thread(list_metrics, stills, videos.pop(main))
        others = {name: await asyncio.to_thread(list_metrics, [], judged) for name, judged in videos.items()}
        return JSONResponse({"video": job.id, "facts": job.facts, "frames": frames, "others": others}, headers=headers)

    def _judge_videos(self, job: Job) -> dict[str, Judgement]:
        """Return the judgement of each video of a job that has begun."""
        names = self._store.list_begun_videos(job.id)
        stored = {name: self._store.list_segments(job.id, variant=name) for name in names}
        return {name: judge_parts([each.signals for each in parts]) for name, parts in stored.items()}

    async def _respond_with_file(self, request: Request, job: Job, variant: str, key: str) -> Response:
        size = await asyncio.to_thread(self._artifacts.get_size, key)
        extension = key.rpartition(".")[2]
        tag = await asyncio.to_thread(self._artifacts.get_tag, key)
        etag = f'"{job.id}-{variant}-{extension}-{tag}"'
        headers = {"Accept-Ranges": "bytes", "ETag": etag, "Cache-Control": "private, max-age=3600"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        is_unchanged = request.headers.get("if-range", etag) == etag
        span = parse_range(request.headers.get("range") if is_unchanged else None, size)
        start, stop = span or (0, size)
        headers["Content-Length"] = str(stop - start)
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        status, media_type = (206 if span else 200), MEDIA_TYPES[extension]
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=media_type)
        chunks = self._artifacts.read(key, start, stop)
        return StreamingResponse(chunks, status_code=status, headers=headers, media_type=media_type)

    async def _respond_with_segments(
        self, request: Request, job: Job, variant: str, form: ContentFormat | None
    ) -> Response:
        """Return a response with the segments of a video that is not complete."""
        videos = await asyncio.to_thread(self._list_videos, job)
        if variant not in videos:
            available = ", ".join(sorted({*job.results, *videos})) or "none yet"
            raise NotFound(f"variant: {job.id} has no {variant[:60]!r}; available: {available}", param="variant")
        if form not in (None, "mp4"):
            check_format(".mp4", variant, str(form))
            state = f"the job is {job.status}, with {job.frames_done} of {job.frames_total or 'its'} frames"
            raise Conflict(f"format: {form} is available when the video is complete; {state}", param="format")
        if job.has_ended and not await asyncio.to_thread(self._store.list_segments, job.id, variant=variant):
            raise NotFound(f"the job ended before its first frame: {job.error_message or job.status}")
        if request.method == "HEAD":
            return Response(media_type="video/mp4")
        read_segments = read_video if job.status == "failed" else follow_video
        chunks = read_segments(self._store, self._artifacts, job.id, variant)
        return StreamingResponse(chunks, media_type="video/mp4", headers={"Cache-Control": "no-store"})

    def _list_videos(self, job: Job) -> set[str]:
        """Return the variants that are videos, whether or not they exist yet."""
        graph = find_graph(job.model, self._served.read_snapshot())
        return {VIDEO} if graph is None else graph.request.list_videos(job.params, graph.outputs)


def _check_frame_format(variant: str, form: ContentFormat | None) -> None:
    """Raise InvalidParameter if a variant that is put together on request does not exist in a format."""
    if form is None or (variant == METRICS and form in ("csv", "json")):
        return
    allowed = "must be one of csv, json" if variant == METRICS else "must not be given"
    raise InvalidParameter(f"format: {allowed} with variant={variant}, got {form!r}", param="format")
