"""Request and response bodies of the HTTP surface. Where OpenAI has a shape for it, it is OpenAI's."""

import difflib
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from composition.media.limits import MediaKind
from composition.records.tables import File, Job, Stage
from composition.variants import VIDEO
from services.errors import InvalidParameter, LimitExceeded
from services.limits import SHOWN, draw_seed, shown


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    error: ErrorDetail


class FileObject(BaseModel):
    """An upload, with what decoding it has shown."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    """Unix seconds."""
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    kind: MediaKind
    width: int
    height: int
    frames: int
    rate: str | None
    """Frames per second as a fraction, `25` or `24000/1001`; none for pictures."""
    duration_s: float
    codec: str
    damaged: str | None
    """What is wrong with a file that can be used nonetheless."""


class StageObject(BaseModel):
    name: str
    model: str
    source: str
    revision: str
    replica: str
    seconds: float


class ChildObject(BaseModel):
    """A part of a job that is a job itself."""

    id: str
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    """Percent."""


class VideoError(BaseModel):
    code: str
    message: str


class VideoObject(BaseModel):
    """A job: OpenAI's fields, and beside them what this project knows."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    """Percent."""
    created_at: int
    """Unix seconds, as all times here."""
    started_at: int | None
    completed_at: int | None
    expires_at: int | None = None
    size: str
    """`WIDTHxHEIGHT`, empty until it is known."""
    seconds: str
    """Of the video, `0` until it is known."""
    prompt: str | None
    caption: str | None
    """The description that was used where no prompt was given."""
    remixed_from_video_id: str | None = None
    error: VideoError | None
    stage: str | None
    frames_done: int
    frames_total: int | None
    rate: str | None
    """Frames per second."""
    eta_s: float | None
    params: dict[str, Any]
    """The request, whole, with the seed drawn."""
    facts: dict[str, Any]
    """What was decided on the way."""
    results: list[str]
    """The variants of the content that exist."""
    main: str
    """The variant that the job is for, which content without a variant is."""
    parent: str | None
    """The job that this one is a part of."""
    children: list[ChildObject]
    """The jobs that are parts of this one."""
    stages: list[StageObject]
    degraded: str | None


class Deleted(BaseModel):
    id: str
    object: Literal["file.deleted", "video.deleted", "file", "video"]
    deleted: Literal[True] = True


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "reelgraph"
    kind: str
    """`graph`, or the kind of model."""
    roles: list[str]
    """Those that a model can take, or that a graph has."""
    ready: bool
    """Whether all that it needs is there."""
    state: str
    """What Serve says of the deployment."""
    fields: dict[str, dict[str, Any]]
    """Field of a request → its JSON schema, with the default and the maximum that hold here."""


Entry = TypeVar("Entry", bound=BaseModel)
Asked = TypeVar("Asked", bound=BaseModel)


class ListPage(BaseModel, Generic[Entry]):
    object: Literal["list"] = "list"
    data: list[Entry]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


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


def parsed(request_type: type[Asked], fields: Mapping[str, Any], limits: Mapping[str, float]) -> Asked:
    """Return the request that `fields` make, its seed drawn.

    Args:
        request_type: the model's.
        fields: as they came; strings where they came from a form.
        limits: field → the most that the operator allows.

    Raises:
        InvalidParameter, LimitExceeded: naming the field, what it may be and what it was.
    """
    try:
        request = request_type.model_validate(fields)
    except ValidationError as error:
        raise _explained(error.errors()[0], request_type) from error
    for name, limit in limits.items():
        value = _at(request, name)
        if value is not None and value > limit:
            raise LimitExceeded(f"{name}: {value} is more than the limit of {limit}", param=name)
    size: str | None = getattr(request, "size") if "size" in request_type.model_fields else None  # noqa: B009
    if size is not None and "max_area" in limits:
        width, height = map(int, size.split("x"))
        if width * height > limits["max_area"]:
            most = limits["max_area"]
            raise LimitExceeded(f"size: {size} has {width * height} pixels, and the limit is {most}", param="size")
    if "seed" in request_type.model_fields and getattr(request, "seed") == -1:  # noqa: B009
        request = request.model_copy(update={"seed": draw_seed(-1)})
    return request


def _at(request: BaseModel, path: str) -> Any:
    """The value of `field` or `field.field`; None where there is none."""
    value: Any = request
    for name in path.split("."):
        value = getattr(value, name) if isinstance(value, BaseModel) and name in type(value).model_fields else None
    return value


def _explained(detail: ErrorDetails, request_type: type[BaseModel]) -> InvalidParameter:
    path = [str(part) for part in detail["loc"] if part != "[key]"]  # which is pydantic's mark behind a bad key
    name = ".".join(path) or "body"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1][:SHOWN], request_type.model_fields, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return InvalidParameter(f"{name[:SHOWN]}: there is no such field{hint}", param=name[:SHOWN])
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if detail["type"] == "missing":
        return InvalidParameter(f"{name}: {message}", param=name)
    got = shown(detail["input"])
    return InvalidParameter(f"{name}: {message}, got {got}", param=name)
