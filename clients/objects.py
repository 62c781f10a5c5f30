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
    """Where its weights come from: a repository, or `path:FOLDER`."""
    revision: str
    replica: str
    seconds: float


class Child(_Object):
    """A part of a job that is a job itself."""

    id: str
    model: str
    status: Status
    progress: int = 0
    """Percent."""


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
    facts: dict[str, Any] = {}
    """What was decided on the way."""
    results: list[str] = []
    """The variants that `content` can give."""
    main: str = "video"
    """The variant that the job is for: `content` without a variant."""
    parent: str | None = None
    """The job that this one is a part of."""
    children: list[Child] = []
    """The jobs that are parts of this one, in their order."""
    stages: list[StageRecord] = []
    degraded: str | None = None
    """What had to be left out, where the video could be made all the same."""

    @property
    def over(self) -> bool:
        return self.status in ("completed", "failed")


class _Picture(_Object):
    b64_json: str
    """The picture, in base64."""

    @property
    def content(self) -> bytes:
        """The picture's file."""
        return b64decode(self.b64_json)


class EditedImage(_Picture):
    """A picture that was made."""

    seed: int
    scores: Scores | None = None
    """Of an edited one."""


class ImagesResponse(_Object):
    """What the editing or the painting of pictures has made."""

    created: int
    """Seconds since 1970, UTC."""
    data: list[EditedImage]
    size: str | None = None
    """`WIDTHxHEIGHT` in pixels."""
    output_format: str | None = None
    facts: dict[str, Any] = {}
    """What was decided on the way."""
    stages: list[StageRecord] = []


class Identity(_Object):
    """Whose face it is, and where it was: fractions of its picture's width and height."""

    embedding: list[float]
    """512 numbers, of length 1."""
    keypoints: list[tuple[float, float]]
    """x and y of the left eye, the right eye, the nose, the left and the right corner of the mouth, as seen."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""


class Crop(_Picture):
    """The face alone, upright, 112 x 112 pixels."""


class Face(_Object):
    """The largest face of a picture."""

    identity: Identity
    crop: Crop
    faces: int
    """How many were found."""
    notice: str | None = None
    """What whoever sent the picture should know."""
    stages: list[StageRecord] = []


class Model(_Object):
    """A graph or a model that can be asked for by its id."""

    id: str
    created: int = 0
    """Seconds since 1970, UTC."""
    owned_by: str = ""
    kind: str
    """`graph`, or the kind of model, e.g. `wan`."""
    roles: list[str] = []
    """Those that a model can take, or that a graph has."""
    ready: bool
    """Whether it, and all that it needs, can be asked now."""
    state: str = ""
    """What the server says of its deployment, e.g. `HEALTHY`."""
    fields: dict[str, dict[str, Any]] = {}
    """Field of a request → its JSON schema, with the default and the maximum of this server."""


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
    """A playable piece of one of the job's videos is there."""

    variant: str = "video"
    index: int
    first: int
    """Index of its first frame."""
    frames: int
    frames_done: int
    frames_total: int | None = None
    preview: str | None = None


class ResultEvent(_Event):
    """One of the job's results is there, whole."""

    variant: str


class FrameEvent(_Event):
    """A frame that is kept without loss is there, of a rolling edit or a full pipeline."""

    index: int
    frames_done: int
    frames_total: int | None = None
    scores: Scores | None = None


Event: TypeAlias = (
    StatusEvent | ProgressEvent | TextEvent | FactEvent | StageEvent | SegmentEvent | ResultEvent | FrameEvent
)

EVENTS: dict[str, type[Event]] = {
    "status": StatusEvent,
    "progress": ProgressEvent,
    "text": TextEvent,
    "fact": FactEvent,
    "stage": StageEvent,
    "segment": SegmentEvent,
    "result": ResultEvent,
    "frame": FrameEvent,
}


class ImageProgress(_Object):
    """`done` of `total` steps of all pictures are finished."""

    stage: str
    done: int
    total: int


class PartialImage(_Picture):
    """A small picture of what is being painted."""

    partial_image_index: int
    """The how-manieth of its picture, from 0."""
    index: int
    """Which picture, from 0."""
    n: int
    """Of how many."""
    size: str | None = None
    """Of the picture in pixels, `WIDTHxHEIGHT`."""


class CompletedImage(_Picture):
    """A picture that is painted."""

    seed: int
    index: int
    """Which one, from 0."""
    n: int
    """Of how many."""
    size: str | None = None
    """`WIDTHxHEIGHT` in pixels."""
    facts: dict[str, Any] = {}
    """What was decided on the way."""


ImageEvent: TypeAlias = ImageProgress | PartialImage | CompletedImage

IMAGE_EVENTS: dict[str, type[ImageEvent]] = {
    "image_generation.progress": ImageProgress,
    "image_generation.partial_image": PartialImage,
    "image_generation.completed": CompletedImage,
}
