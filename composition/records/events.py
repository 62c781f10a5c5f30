"""Events of a job, as sent by `GET /v1/videos/{id}/events`."""

from typing import ClassVar, Literal, TypeAlias

from pydantic import BaseModel

from services.frames import JsonValue

Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed"]


class ScoresObject(BaseModel):
    """Quality scores of a frame, lower is better; null if they were not measured."""

    edge_loss: float | None = None
    """Difference between the frame's edges and the edges to follow."""
    gram_loss: float | None = None
    """Difference in style: of the Gram matrices of VGG16 features."""
    temporal_loss: float | None = None
    """Difference from the previous frame."""
    lpips_to_init: float | None = None
    """LPIPS distance from the first frame, or from the style frame if one is given."""
    lpips_to_prev: float | None = None
    """LPIPS distance from the previous frame."""


class StageObject(BaseModel):
    """A completed stage of a job, and the service that ran it."""

    name: str
    """Name of the stage."""
    model: str
    """Kind of the model."""
    source: str
    """Source of the weights: a repository, or `path:FOLDER`."""
    revision: str
    """Revision of the weights."""
    replica: str
    """Replica of the service, and its device."""
    seconds: float
    """Duration in seconds."""


class VideoError(BaseModel):
    """Reason why a job failed."""

    code: str
    """Kind of error, for programs, e.g. `model_failed`."""
    message: str
    """A sentence for the user."""


class JobEvent(BaseModel):
    """An event of a job."""

    KIND: ClassVar[str] = ""
    """Name of the event in the stream."""


class StatusEvent(JobEvent):
    """A change of the job's status. `completed` and `failed` are the last event."""

    KIND = "status"

    status: Status
    """New status of the job."""
    error: VideoError | None = None
    """Reason why the job failed; null if it did not."""


class ProgressEvent(JobEvent):
    """Progress of a stage."""

    KIND = "progress"

    stage: str
    """Name of the stage."""
    done: int
    """Number of finished steps."""
    total: int
    """Total number of steps."""
    preview: str | None = None
    """A small preview of the unfinished frames: a `data:image/jpeg` URL; null if there is none."""


class TextEvent(JobEvent):
    """A piece of the text that a model is writing."""

    KIND = "text"

    stage: str
    """Name of the stage."""
    piece: str
    """The next piece of the text."""


class FactEvent(JobEvent):
    """A value that was determined while the job ran, e.g. `seed`, `size`, `caption`."""

    KIND = "fact"

    name: str
    """Name of the value."""
    value: JsonValue
    """The value."""


class StageEvent(JobEvent, StageObject):
    """A stage was completed."""

    KIND = "stage"


class SegmentEvent(JobEvent):
    """A segment, a playable piece of one of the job's videos, was stored."""

    KIND = "segment"

    variant: str = "video"
    """Variant of the video."""
    index: int
    """Index of the segment, from 0."""
    first: int
    """Index of the segment's first frame."""
    frames: int
    """Number of frames in the segment."""
    frames_done: int
    """Number of finished frames of the video."""
    frames_total: int | None = None
    """Total number of frames of the video; null if it is not known."""


class ResultEvent(JobEvent):
    """One of the job's results is complete."""

    KIND = "result"

    variant: str
    """Variant of the content."""


class FrameEvent(JobEvent):
    """A frame of a rolling edit or a full pipeline was stored without loss."""

    KIND = "frame"

    index: int
    """Index of the frame, from 0."""
    frames_done: int
    """Number of finished frames of the video."""
    frames_total: int | None = None
    """Total number of frames of the video; null if it is not known."""
    scores: ScoresObject | None = None
    """Scores of the frame; null if they were not measured."""


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
