"""What the watchers of a job are told: the events of `GET /v1/videos/{id}/events`."""

from typing import ClassVar, Literal, TypeAlias

from pydantic import BaseModel

from services.frames import JsonValue

Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed"]


class ScoresObject(BaseModel):
    """How a frame differs from what it was to be. None where it was not measured."""

    edge_loss: float | None = None
    """Difference of the edges."""
    gram_loss: float | None = None
    """Difference of the style, as Gram matrices of VGG16 features."""
    temporal_loss: float | None = None
    """Difference to the frame before."""
    lpips_to_init: float | None = None
    """LPIPS to the first frame, or the given style frame."""
    lpips_to_prev: float | None = None
    """LPIPS to the frame before."""


class StageObject(BaseModel):
    """Which service did a part of the work."""

    name: str
    """The stage."""
    model: str
    """The kind of model."""
    source: str
    """Where its weights come from: a repository, or `path:FOLDER`."""
    revision: str
    """Of the weights."""
    replica: str
    """The replica, and its device."""
    seconds: float
    """How long it took."""


class VideoError(BaseModel):
    """Why a job failed."""

    code: str
    """A word for programs, e.g. `model_failed`."""
    message: str
    """A sentence for people."""


class JobEvent(BaseModel):
    """Something that happened to a job."""

    KIND: ClassVar[str] = ""
    """Name of the event in the stream."""


class StatusEvent(JobEvent):
    """The job's status. After `completed` or `failed` no event follows."""

    KIND = "status"

    status: Status
    """How the job stands now."""
    error: VideoError | None = None
    """Why it failed."""


class ProgressEvent(JobEvent):
    """`done` of `total` steps of a stage are finished."""

    KIND = "progress"

    stage: str
    """The stage."""
    done: int
    """Steps that are finished."""
    total: int
    """Steps there are."""
    preview: str | None = None
    """A small picture of what is being made: a `data:image/jpeg` URL."""


class TextEvent(JobEvent):
    """A piece of text as a model writes it."""

    KIND = "text"

    stage: str
    """The stage."""
    piece: str
    """The piece."""


class FactEvent(JobEvent):
    """Something decided on the way: `seed`, `size`, `caption`."""

    KIND = "fact"

    name: str
    """Of the fact."""
    value: JsonValue
    """Its value."""


class StageEvent(JobEvent, StageObject):
    """A service has finished its part."""

    KIND = "stage"


class SegmentEvent(JobEvent):
    """A playable piece of one of the job's videos is there."""

    KIND = "segment"

    variant: str = "video"
    """Which of the job's videos."""
    index: int
    """Of the segment, from 0."""
    first: int
    """Index of its first frame."""
    frames: int
    """Frames in it."""
    frames_done: int
    """Frames of the video that are there."""
    frames_total: int | None = None
    """Frames of the whole video, where that is known."""


class ResultEvent(JobEvent):
    """One of the job's results is there, whole."""

    KIND = "result"

    variant: str
    """The result, as `content` names it."""


class FrameEvent(JobEvent):
    """A frame that is kept without loss is there, of a rolling edit or a full pipeline."""

    KIND = "frame"

    index: int
    """Of the frame, from 0."""
    frames_done: int
    """Frames of the video that are there."""
    frames_total: int | None = None
    """Frames of the whole video, where that is known."""
    scores: ScoresObject | None = None
    """Of the frame, where it was measured."""


JOB_EVENTS: tuple[type[JobEvent], ...] = (
    StatusEvent,
    ProgressEvent,
    TextEvent,
    FactEvent,
    StageEvent,
    SegmentEvent,
    ResultEvent,
    FrameEvent,
)
