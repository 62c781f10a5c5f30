"""What the API answers. Unknown fields are kept, so that an older client reads a newer server."""

from base64 import b64decode
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")

Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed"]
JsonValue: TypeAlias = str | int | float | bool | None


class _Object(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class File(_Object):
    """An uploaded video, picture, or zip of pictures."""

    id: str
    bytes: int
    created_at: int
    """Seconds since 1970, UTC."""
    filename: str
    purpose: str
    kind: Literal["video", "image", "pictures"]
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    frames: int | None = None
    rate: str | None = None
    """Frames per second as a fraction: `25` or `24000/1001`."""
    duration_s: float | None = None
    damaged: str | None = None
    """What could not be read of it, where the rest could."""


class Scores(_Object):
    """How a frame differs from what it was to be. None where it was not measured."""

    edge_loss: float | None = None
    gram_loss: float | None = None
    temporal_loss: float | None = None
    lpips_to_init: float | None = None
    lpips_to_prev: float | None = None


class VideoError(_Object):
    """Why a job failed."""

    code: str
    message: str


class StageRecord(_Object):
    """Which service did a part of the work."""

    name: str
    model: str
    source: str
    """Where its weights come from: a repository, a path, or `miniature:FORM`."""
    revision: str
    replica: str
    seconds: float


class Video(_Object):
    """A job, and the video that it makes."""

    id: str
    model: str
    status: Status
    progress: int = 0
    """Percent."""
    created_at: int
    """Seconds since 1970, UTC; so are the next three."""
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    size: str | None = None
    """`WIDTHxHEIGHT` in pixels."""
    seconds: str | None = None
    """Duration of the video."""
    prompt: str | None = None
    caption: str | None = None
    """The description that was written where no prompt was given."""
    error: VideoError | None = None
    remixed_from_video_id: str | None = None
    stage: str | None = None
    frames_done: int | None = None
    frames_total: int | None = None
    eta_s: float | None = None
    params: dict[str, Any] = {}
    """All parameters of the job, with the seed that was drawn."""
    results: list[str] = []
    """The variants that `content` can give."""
    stages: list[StageRecord] = []
    degraded: str | None = None
    """What had to be left out, where the video could be made all the same."""

    @property
    def over(self) -> bool:
        return self.status in ("completed", "failed")


class EditedImage(_Object):
    """A picture that was made."""

    b64_json: str
    """The picture, in base64."""
    seed: int
    scores: Scores | None = None

    @property
    def content(self) -> bytes:
        """The picture's file."""
        return b64decode(self.b64_json)


class ImagesResponse(_Object):
    """What the editing of a picture has made."""

    created: int
    """Seconds since 1970, UTC."""
    data: list[EditedImage]
    size: str | None = None
    """`WIDTHxHEIGHT` in pixels."""
    output_format: str | None = None
    facts: dict[str, Any] = {}


class Model(_Object):
    """Something that can be asked for by name."""

    id: str
    created: int = 0
    """Seconds since 1970, UTC."""
    owned_by: str = ""
    ready: bool
    kind: str
    """`graph` or `service`."""


class Deleted(_Object):
    id: str
    deleted: bool


class Page(_Object, Generic[T]):
    """A part of a list. `last_id` is the cursor of the next one."""

    data: list[T]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class _Event(_Object):
    id: int
    """Where in the job's history it stands; reading can begin again behind it."""


class StatusEvent(_Event):
    """The job's status. After `completed` or `failed` no event follows."""

    status: Status
    error: VideoError | None = None

    @property
    def over(self) -> bool:
        return self.status in ("completed", "failed")


class ProgressEvent(_Event):
    """`done` of `total` steps of a stage are finished."""

    stage: str
    done: int
    total: int
    preview: str | None = None
    """A small picture of what is being made: a `data:image/jpeg` URL."""


class TextEvent(_Event):
    """A piece of text as a model writes it."""

    stage: str
    piece: str


class FactEvent(_Event):
    """Something decided on the way: `seed`, `size`, `caption`."""

    name: str
    value: JsonValue


class StageEvent(_Event, StageRecord):
    """A service has finished its part."""


class SegmentEvent(_Event):
    """A playable piece of the video is there."""

    index: int
    first: int
    """Index of its first frame."""
    frames: int
    frames_done: int
    frames_total: int | None = None
    preview: str | None = None


class FrameEvent(_Event):
    """A frame of a rolling edit is there."""

    index: int
    frames_done: int
    frames_total: int | None = None
    scores: Scores | None = None


Event: TypeAlias = StatusEvent | ProgressEvent | TextEvent | FactEvent | StageEvent | SegmentEvent | FrameEvent

EVENTS: dict[str, type[Event]] = {
    "status": StatusEvent,
    "progress": ProgressEvent,
    "text": TextEvent,
    "fact": FactEvent,
    "stage": StageEvent,
    "segment": SegmentEvent,
    "frame": FrameEvent,
}
