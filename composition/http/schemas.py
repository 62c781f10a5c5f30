"""Request and response bodies of the HTTP surface. Where OpenAI has a shape for it, it is OpenAI's."""

import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from composition.media.limits import MediaKind
from composition.records.events import ScoresObject, StageObject, Status, VideoError
from composition.records.tables import File, Job, Stage
from composition.variants import VIDEO
from services.frames import StageDone


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    error: ErrorDetail


class FileObject(BaseModel):
    """An upload, with what decoding it has shown."""

    id: str
    """What requests name it by."""
    object: Literal["file"] = "file"
    bytes: int
    """Its size."""
    created_at: int
    """Seconds since 1970, UTC."""
    filename: str
    """As it was sent."""
    purpose: str
    """As it was sent."""
    status: Literal["processed"] = "processed"
    """As OpenAI has it: what does not decode is not taken in."""
    kind: MediaKind
    """What is in it: a video, a picture, or a zip of pictures."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    frames: int = 0
    """Frames, or pictures."""
    rate: str | None
    """Frames per second as a fraction, `25` or `24000/1001`; none for pictures."""
    duration_s: float = 0.0
    """Seconds."""
    codec: str = ""
    """Of the video or the pictures, as FFmpeg calls it."""
    damaged: str | None
    """What is wrong with a file that can be used nonetheless."""


class ChildObject(BaseModel):
    """A part of a job that is a job itself."""

    id: str
    """Of the job."""
    model: str
    """As in its request."""
    status: Status
    """How it stands."""
    progress: int = 0
    """Percent."""


class VideoObject(BaseModel):
    """A job, and the video that it makes: OpenAI's fields, and beside them what this project knows."""

    id: str
    """Of the job."""
    object: Literal["video"] = "video"
    model: str
    """The graph, or the id of the model, that was asked for."""
    status: Status
    """How it stands."""
    progress: int = 0
    """Percent."""
    created_at: int
    """Seconds since 1970, UTC; so are the next three."""
    started_at: int | None
    """When a runner took it."""
    completed_at: int | None
    """When it was over, completed or failed."""
    expires_at: int | None = None
    """When its results will be removed."""
    size: str = ""
    """`WIDTHxHEIGHT` in pixels, empty until it is known."""
    seconds: str = "0"
    """Duration of the video, `0` until it is known."""
    prompt: str | None
    """As in its request."""
    caption: str | None
    """The description that was written where no prompt was given."""
    remixed_from_video_id: str | None = None
    """As OpenAI has it; not used."""
    error: VideoError | None
    """Why it failed."""
    stage: str | None
    """What is being done."""
    frames_done: int = 0
    """Frames of its main video that are there."""
    frames_total: int | None
    """Frames of the whole video, where that is known."""
    rate: str | None
    """Frames per second as a fraction, where that is known."""
    eta_s: float | None
    """An estimate of the seconds that are left."""
    params: dict[str, Any] = {}
    """All fields of the request, with the seed that was drawn."""
    facts: dict[str, Any] = {}
    """What was decided on the way."""
    results: list[str] = []
    """The variants that `content` can give."""
    main: str = VIDEO
    """The variant that the job is for: `content` without a variant."""
    parent: str | None
    """The job that this one is a part of."""
    children: list[ChildObject] = []
    """The jobs that are parts of this one, in their order."""
    stages: list[StageObject] = []
    """Which services did the work."""
    degraded: str | None
    """What had to be left out, where the video could be made all the same."""


class ImageObject(BaseModel):
    """A picture that was made."""

    b64_json: str
    """The picture's file, a PNG, in base64."""
    seed: int
    """By which it can be made again."""
    scores: ScoresObject | None = None
    """Of an edited one, where it was measured."""


class ImagesObject(BaseModel):
    """What the editing or the painting of pictures has made: OpenAI's answer, and beside it what this project knows."""

    created: int
    """Seconds since 1970, UTC."""
    data: list[ImageObject]
    """The pictures."""
    size: str = ""
    """`WIDTHxHEIGHT` of the pictures in pixels."""
    output_format: Literal["png"] = "png"
    """The format of the pictures."""
    facts: dict[str, Any] = {}
    """What was decided on the way: the first `seed`, `size`, and of a face `faces` and perhaps `notice`."""
    stages: list[StageObject] = []
    """Which services did the work."""


class ImageProgress(BaseModel):
    """`done` of `total` steps of all pictures are finished."""

    KIND: ClassVar[str] = "image_generation.progress"

    stage: str
    """The stage."""
    done: int
    """Steps that are finished."""
    total: int
    """Steps there are."""


class ShownImage(BaseModel):
    """A picture in a stream."""

    b64_json: str
    """The picture's file, a PNG, in base64."""
    size: str | None
    """`WIDTHxHEIGHT` in pixels."""
    output_format: Literal["png"] = "png"
    """The format of the picture."""
    quality: Literal["auto"] = "auto"
    """There is one quality."""
    background: Literal["opaque"] = "opaque"
    """Pictures are opaque."""
    created_at: int = 0
    """Seconds since 1970, UTC."""
    index: int
    """Which picture, from 0."""
    n: int
    """Of how many."""


class PartialImage(ShownImage):
    """A small picture of what is being painted."""

    KIND: ClassVar[str] = "image_generation.partial_image"

    partial_image_index: int
    """Which preview of its picture, from 0."""


class CompletedImage(ShownImage):
    """A picture that is painted."""

    KIND: ClassVar[str] = "image_generation.completed"

    seed: int
    """By which it can be painted alone."""
    facts: dict[str, Any] = {}
    """What was decided on the way."""
    usage: dict[str, Any] = {}
    """As OpenAI has it; nothing is counted in tokens here."""


ImageEvent: TypeAlias = ImageProgress | PartialImage | CompletedImage
IMAGE_EVENTS: tuple[type[ImageEvent], ...] = (ImageProgress, PartialImage, CompletedImage)


class Deleted(BaseModel):
    """What was deleted."""

    id: str
    """Of the file or the job."""
    object: Literal["file.deleted", "video.deleted", "file", "video"]
    deleted: bool = True
    """That it is."""


class ModelObject(BaseModel):
    """A graph or a model that can be asked for by its id."""

    id: str
    """What requests name it by."""
    object: Literal["model"] = "model"
    created: int = 0
    """When the server was started, in seconds since 1970, UTC."""
    owned_by: str = "reelgraph"
    """As OpenAI has it."""
    kind: str
    """`graph`, or the kind of model, e.g. `wan`."""
    roles: list[str] = []
    """Those that a model can take, or that a graph has."""
    ready: bool
    """Whether it, and all that it needs, can be asked now."""
    state: str = ""
    """What Ray Serve says of its deployment, e.g. `HEALTHY`."""
    fields: dict[str, dict[str, Any]] = {}
    """Field of a request → its JSON schema, with the default and the maximum of this server."""


Entry = TypeVar("Entry", bound=BaseModel)


class ListPage(BaseModel, Generic[Entry]):
    """A part of a list."""

    object: Literal["list"] = "list"
    data: list[Entry]
    """The entries."""
    first_id: str | None = None
    """Of the first entry."""
    last_id: str | None = None
    """Of the last entry: the cursor of the next part."""
    has_more: bool = False
    """Whether there are entries behind the last."""


def stage_object(done: StageDone) -> StageObject:
    """Return what is told of a service that has done its part."""
    told = {name: getattr(done, name) for name in ("model", "source", "revision", "replica", "seconds")}
    return StageObject(name=done.stage, **told)


def file_object(file: File) -> FileObject:
    created = int(file.created_at)
    described = {"id": file.id, "bytes": file.bytes, "filename": file.filename, "purpose": file.purpose}
    return FileObject(created_at=created, **described, **file.facts)


def video_object(job: Job, stages: Sequence[Stage], children: Sequence[Job] = ()) -> VideoObject:
    """Raises nothing: every job that is stored can be shown."""
    seconds = float(job.frames_total / Fraction(job.rate)) if job.frames_total and job.rate else 0.0
    error = VideoError(code=job.error_code, message=job.error_message or "") if job.error_code else None
    return VideoObject(
        id=job.id,
        model=job.model,
        status=job.status,  # pyright: ignore[reportArgumentType] - the column holds nothing else
        progress=_percent(job),
        created_at=int(job.created_at),
        started_at=int(job.started_at) if job.started_at else None,
        completed_at=int(job.completed_at) if job.completed_at else None,
        size=f"{job.width}x{job.height}" if job.width else str(job.params.get("size") or ""),
        seconds=f"{seconds:.3f}".rstrip("0").rstrip("."),
        prompt=job.params.get("prompt"),
        caption=job.facts.get("caption"),
        error=error,
        stage=job.stage,
        frames_done=job.frames_done,
        frames_total=job.frames_total,
        rate=job.rate,
        eta_s=_eta_s(job),
        params=job.params,
        facts=job.facts,
        results=sorted(job.results),
        main=job.main or VIDEO,
        parent=job.parent,
        children=[_child(child) for child in children],
        stages=[StageObject.model_validate(stage, from_attributes=True) for stage in stages],
        degraded=job.degraded,
    )


def _percent(job: Job) -> int:
    return 100 if job.status == "completed" else min(99, int(job.progress * 100))


def _child(job: Job) -> ChildObject:
    said = {"id": job.id, "model": job.model, "status": job.status, "progress": _percent(job)}
    return ChildObject.model_validate(said)


def _eta_s(job: Job) -> float | None:
    if job.status != "in_progress" or job.started_at is None or job.progress < 0.02:
        return None
    return round((time.time() - job.started_at) * (1 - job.progress) / job.progress, 1)
