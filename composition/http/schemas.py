"""Response objects of the HTTP API, in OpenAI's format if OpenAI has one."""

import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from composition.media.formats import PictureFormat
from composition.media.limits import MediaKind
from composition.media.written import VideoFacts
from composition.records.events import ScoresObject, StageObject, Status, VideoError
from composition.records.tables import File, Job, Stage
from composition.variants import VIDEO


class ErrorDetail(BaseModel):
    """An error, in OpenAI's format."""

    message: str
    """A sentence for the user: the field, its limit and the given value, if the error is about a field."""
    type: str
    """`invalid_request_error` or `server_error`."""
    param: str | None
    """The field or header that caused the error; null if there is none."""
    code: str
    """Kind of error, for programs, e.g. `limit_exceeded`."""


class ErrorBody(BaseModel):
    """The body of an error response."""

    error: ErrorDetail


class FileObject(BaseModel):
    """An uploaded file, with the properties found by decoding it."""

    id: str
    """Id of the file."""
    object: Literal["file"] = "file"
    bytes: int
    """Size in bytes."""
    created_at: int
    """Time of the upload, in seconds since 1970, UTC."""
    filename: str
    """File name in the upload."""
    purpose: str
    """Purpose given in the upload."""
    status: Literal["processed"] = "processed"
    """Always `processed`, for compatibility: files that cannot be decoded are rejected."""
    kind: MediaKind
    """Content: a video, a picture, or a zip archive of pictures."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    frames: int = 0
    """Number of frames or pictures."""
    rate: str | None
    """Frames per second as a fraction, `25` or `24000/1001`; null for pictures."""
    duration_s: float = 0.0
    """Duration in seconds; 0 for pictures."""
    codec: str = ""
    """FFmpeg's name of the codec of the video or pictures."""
    is_variable: bool = False
    """Whether the frame rate is variable; `rate` is then the average."""
    sound: str | None = None
    """FFmpeg's name of the codec of the sound; null if there is no sound."""
    changes: dict[str, str | bool] = {}
    """What is changed to show the picture as a viewer would see it, e.g. `tone_mapped`: `hlg`."""
    damaged: str | None
    """Description of damage to a file that is still usable; null if there is none."""


class ChildObject(BaseModel):
    """A job that is a part of another job."""

    id: str
    """Id of the job."""
    model: str
    """Graph or model that runs the job."""
    status: Status
    """Status of the job."""
    progress: int = 0
    """Progress in percent."""


class VideoObject(BaseModel):
    """A job and the video that it makes: OpenAI's fields, and more."""

    id: str
    """Id of the job."""
    object: Literal["video"] = "video"
    model: str
    """Graph or model that runs the job."""
    status: Status
    """Status of the job."""
    progress: int = 0
    """Progress in percent."""
    created_at: int
    """Time of the request, in seconds since 1970, UTC."""
    started_at: int | None
    """Time when the job was started, in seconds since 1970, UTC."""
    completed_at: int | None
    """Time when the job completed or failed, in seconds since 1970, UTC."""
    expires_at: int | None = None
    """Time when the results are deleted, in seconds since 1970, UTC; null if they are kept."""
    size: str = ""
    """`WIDTHxHEIGHT` in pixels; empty until it is known. When the video is complete, this and the other properties of
    the main video are read from its file."""
    seconds: str = "0"
    """Duration of the video in seconds; `0` until it is known."""
    prompt: str | None
    """Prompt of the request."""
    caption: str | None
    """Description that a model wrote because no prompt was given."""
    remixed_from_video_id: str | None = None
    """Always null, for compatibility."""
    error: VideoError | None
    """Reason why the job failed."""
    stage: str | None
    """Stage that is running."""
    frames_done: int = 0
    """Number of finished frames of the main video."""
    frames_total: int | None
    """Total number of frames of the main video; null until it is known."""
    rate: str | None
    """Frames per second as a fraction; null until it is known. The average if the frame rate is variable."""
    codec: str | None = None
    """FFmpeg's name of the codec of the main video: `h264`, `hevc` or `av1`; null until the video is complete."""
    sound: str | None = None
    """FFmpeg's name of the codec of the sound of the main video; null if there is none, or until it is complete."""
    videos: dict[str, VideoFacts] = {}
    """Variant → the facts of each complete video, as read from its file."""
    eta_s: float | None
    """Estimated time until completion, in seconds; null if it cannot be estimated."""
    params: dict[str, Any] = {}
    """All fields of the request, including defaults and the random seed."""
    facts: dict[str, Any] = {}
    """Values determined while the job ran, e.g. `seed`, `size`."""
    results: list[str] = []
    """Variants of the content that are complete."""
    main: str = VIDEO
    """Main variant: the content returned if no variant is given."""
    parent: str | None
    """Id of the job that this job is a part of; null if there is none."""
    children: list[ChildObject] = []
    """Jobs that are parts of this job, in order."""
    stages: list[StageObject] = []
    """Completed stages, with the service that ran each."""
    degraded: str | None
    """What is not as requested, e.g. an optional stage that failed and was skipped, or frames that their gate refused;
    null if there is nothing."""


class ImageObject(BaseModel):
    """A generated or edited picture."""

    b64_json: str
    """The picture in base64, in the format `output_format`."""
    seed: int
    """Seed that reproduces the picture."""
    scores: ScoresObject | None = None
    """Scores of an edited picture; null if they were not measured."""


class ImagesObject(BaseModel):
    """Generated or edited pictures: OpenAI's fields, and more."""

    created: int
    """Time of the response, in seconds since 1970, UTC."""
    data: list[ImageObject]
    """The pictures."""
    size: str = ""
    """Size of the pictures: `WIDTHxHEIGHT` in pixels."""
    output_format: PictureFormat = "png"
    """File format of the pictures."""
    facts: dict[str, Any] = {}
    """Values determined by the models: `seed` of the first picture, `size`, and of a face `faces` and `notice`."""
    stages: list[StageObject] = []
    """Completed stages, with the service that ran each."""


class ImageProgress(BaseModel):
    """Progress, counted over the steps of all pictures."""

    KIND: ClassVar[str] = "image_generation.progress"

    stage: str
    """Stage that is running."""
    done: int
    """Number of finished steps."""
    total: int
    """Total number of steps."""


class ShownImage(BaseModel):
    """A picture in a stream of events."""

    b64_json: str
    """The picture in base64, in the format `output_format`."""
    size: str | None
    """Size of the finished picture: `WIDTHxHEIGHT` in pixels."""
    output_format: PictureFormat = "png"
    """File format of the picture."""
    quality: Literal["auto"] = "auto"
    """Always `auto`, for compatibility."""
    background: Literal["opaque"] = "opaque"
    """Always `opaque`: pictures have no alpha channel."""
    created_at: int = 0
    """Time of the event, in seconds since 1970, UTC."""
    index: int
    """Index of the picture, from 0."""
    n: int
    """Number of pictures in the request."""


class PartialImage(ShownImage):
    """A small preview of an unfinished picture."""

    KIND: ClassVar[str] = "image_generation.partial_image"

    partial_image_index: int
    """Index of this preview within its picture, from 0."""


class CompletedImage(ShownImage):
    """A finished picture."""

    KIND: ClassVar[str] = "image_generation.completed"

    seed: int
    """Seed that generates this picture alone."""
    facts: dict[str, Any] = {}
    """Values determined by the models so far."""
    usage: dict[str, Any] = {}
    """Token counts, always 0: OpenAI's format requires them."""


ImageEvent: TypeAlias = ImageProgress | PartialImage | CompletedImage
IMAGE_EVENTS: tuple[type[ImageEvent], ...] = (ImageProgress, PartialImage, CompletedImage)


class Deleted(BaseModel):
    """Confirmation of a deletion."""

    id: str
    """Id of the file or job."""
    object: Literal["file.deleted", "video.deleted", "file", "video"]
    deleted: bool = True
    """Always true."""


class ModelObject(BaseModel):
    """A graph or model that requests can name."""

    id: str
    """Name for the field `model` of requests."""
    object: Literal["model"] = "model"
    created: int = 0
    """Time when the server was started, in seconds since 1970, UTC."""
    owned_by: str = "reelgraph"
    """Always `reelgraph`, for compatibility."""
    kind: str
    """`graph`, or the kind of the model, e.g. `wan`."""
    roles: list[str] = []
    """Roles that a model offers, or that a graph uses."""
    ready: bool
    """Whether it is running, with all models that it needs."""
    state: str = ""
    """Status of its deployment in Ray Serve, e.g. `HEALTHY`."""
    fields: dict[str, dict[str, Any]] = {}
    """Field of a request → its JSON schema, with this server's defaults and limits."""


Entry = TypeVar("Entry", bound=BaseModel)


class ListPage(BaseModel, Generic[Entry]):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[Entry]
    """Entries of the page."""
    first_id: str | None = None
    """Id of the first entry; null if the page is empty."""
    last_id: str | None = None
    """Id of the last entry, for the parameter `after` of the next page; null if the page is empty."""
    has_more: bool = False
    """Whether there are more entries after this page."""


def file_object(file: File) -> FileObject:
    """Return the object of a stored file."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_at),
        filename=file.filename,
        purpose=file.purpose,
        **file.facts,
    )


def video_object(job: Job, stages: Sequence[Stage], children: Sequence[Job] = ()) -> VideoObject:
    """Return the object of a stored job, with its stages and the jobs that are parts of it."""
    videos = {variant: VideoFacts.model_validate(facts) for variant, facts in (job.videos or {}).items()}
    main = videos.get(job.main or VIDEO)
    seconds = float(job.frames_total / Fraction(job.rate)) if job.frames_total and job.rate else 0.0
    error = VideoError(code=job.error_code, message=job.error_message or "") if job.error_code else None
    return VideoObject(
        id=job.id,
        model=job.model,
        status=job.status,  # pyright: ignore[reportArgumentType] - the column holds nothing else
        progress=_compute_percent(job),
        created_at=int(job.created_at),
        started_at=int(job.started_at) if job.started_at else None,
        completed_at=int(job.completed_at) if job.completed_at else None,
        size=f"{job.width}x{job.height}" if job.width else str(job.params.get("size") or ""),
        seconds=f"{main.seconds if main else seconds:.3f}".rstrip("0").rstrip("."),
        prompt=job.params.get("prompt"),
        caption=job.facts.get("caption"),
        error=error,
        stage=job.stage,
        frames_done=job.frames_done,
        frames_total=job.frames_total,
        rate=job.rate,
        codec=main and main.codec,
        sound=main and main.sound,
        videos=videos,
        eta_s=_estimate_remaining_s(job),
        params=job.params,
        facts=job.facts,
        results=sorted(job.results),
        main=job.main or VIDEO,
        parent=job.parent,
        children=[_child_object(child) for child in children],
        stages=[StageObject.model_validate(stage, from_attributes=True) for stage in stages],
        degraded=job.degraded,
    )


def _compute_percent(job: Job) -> int:
    return 100 if job.status == "completed" else min(99, int(job.progress * 100))


def _child_object(job: Job) -> ChildObject:
    return ChildObject(
        id=job.id,
        model=job.model,
        status=job.status,  # pyright: ignore[reportArgumentType] - the column holds nothing else
        progress=_compute_percent(job),
    )


def _estimate_remaining_s(job: Job) -> float | None:
    """Estimate the time until completion from the time since the start and the progress."""
    if job.status != "in_progress" or job.started_at is None or job.progress < 0.02:
        return None
    return round((time.time() - job.started_at) * (1 - job.progress) / job.progress, 1)
