"""The events of a job, as streamed by `GET /v1/videos/{id}/events`."""

from typing import ClassVar, Literal, Self, TypeAlias

from pydantic import BaseModel

from services.frames import JsonValue, StageDone

Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed"]


class ScoresObject(BaseModel):
    """Quality scores of a frame. None if not measured."""

    edge_loss: float | None = None
    """Difference from the requested edges."""
    gram_loss: float | None = None
    """Difference of the style, as Gram matrices of VGG16 features."""
    temporal_loss: float | None = None
    """Difference from the previous frame."""
    lpips_to_init: float | None = None
    """LPIPS distance to the first frame, or to the style frame if given."""
    lpips_to_prev: float | None = None
    """LPIPS distance to the previous frame."""


class FrameScoresObject(ScoresObject):
    """Quality scores of a frame, and how it was made."""

    seed: int | None = None
    """Seed of the frame."""
    tries: int = 1
    """Number of times that the frame was made, each with another seed."""
    passed: bool | None = None
    """Whether the frame passed its gate. None if there is none, or if a score with a maximum was not measured."""


class StageObject(BaseModel):
    """A completed stage: one model's part in the work."""

    name: str
    """Name of the stage."""
    model: str
    """Kind of the model."""
    source: str
    """Source of the weights: a repository, or `path:FOLDER`."""
    revision: str
    """Revision of the weights."""
    replica: str
    """The replica and its device."""
    seconds: float
    """Duration in seconds."""

    @classmethod
    def from_stage(cls, done: StageDone) -> Self:
        """Return the object of a completed stage."""
        return cls(
            name=done.stage,
            model=done.model,
            source=done.source,
            revision=done.revision,
            replica=done.replica,
            seconds=done.seconds,
        )


class VideoError(BaseModel):
    """The error of a failed job."""

    code: str
    """Error code, e.g. `model_failed`."""
    message: str
    """Error message."""


class JobEvent(BaseModel):
    """An event of a job."""

    KIND: ClassVar[str] = ""
    """Name of the event in the stream."""


class StatusEvent(JobEvent):
    """A change of the job's status. `completed` or `failed` is the last event."""

    KIND = "status"

    status: Status
    """The new status."""
    error: VideoError | None = None
    """The error, if the job failed."""


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
    """Small preview of the current frame, as a `data:image/jpeg` URL."""


class TextEvent(JobEvent):
    """A piece of generated text."""

    KIND = "text"

    stage: str
    """Name of the stage."""
    piece: str
    """The text that follows the previous piece."""


class FactEvent(JobEvent):
    """A value that was determined while the job ran: `seed`, `size`, `caption`."""

    KIND = "fact"

    name: str
    """Name of the fact."""
    value: JsonValue
    """Value of the fact."""


class StageEvent(JobEvent, StageObject):
    """A stage was completed."""

    KIND = "stage"


class SegmentEvent(JobEvent):
    """A playable segment of one of the job's videos was stored."""

    KIND = "segment"

    variant: str = "video"
    """Name of the video among the job's results."""
    index: int
    """Index of the segment, from 0."""
    first: int
    """Index of its first frame."""
    frames: int
    """Number of frames in the segment."""
    frames_done: int
    """Number of frames of the video stored so far."""
    frames_total: int | None = None
    """Total number of frames of the video, if known."""


class ResultEvent(JobEvent):
    """One of the job's results is complete."""

    KIND = "result"

    variant: str
    """Name of the result, as in `content?variant=`."""


class FrameEvent(JobEvent):
    """A frame of a rolling edit or a full pipeline was stored losslessly."""

    KIND = "frame"

    index: int
    """Index of the frame, from 0."""
    frames_done: int
    """Number of frames of the video stored so far."""
    frames_total: int | None = None
    """Total number of frames of the video, if known."""
    scores: FrameScoresObject | None = None
    """Quality scores of the frame, if measured."""


class TryEvent(JobEvent):
    """A frame of a rolling edit was refused by its gate, and is made again with the next seed."""

    KIND = "try"

    index: int
    """Index of the frame, from 0."""
    scores: FrameScoresObject
    """Quality scores, seed and number of the try, from 1."""


JOB_EVENTS: tuple[type[JobEvent], ...] = (
    StatusEvent,
    ProgressEvent,
    TextEvent,
    FactEvent,
    StageEvent,
    SegmentEvent,
    ResultEvent,
    FrameEvent,
    TryEvent,
)
