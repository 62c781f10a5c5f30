"""Kinds of media files, and the limits that a file must keep."""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from composition.media.allowed import CONTAINERS, SOUND_CODECS, VIDEO_CODECS, Codec, Container
from composition.media.backgrounds import check_background
from composition.media.confinement.status import ConfinementPolicy
from composition.media.node_memory import RAY_THRESHOLD

MediaKind = Literal["image", "video", "pictures", "sound"]
"""`pictures` is a zip archive or a folder of pictures, `sound` a file that holds only sound."""
MAX_CONVERSION_PIXELS = 1_000_000_000
"""Default limit on the pixels of a video that is converted, frames × width × height: 480 frames of 1920x1080."""

Background: TypeAlias = Annotated[str, AfterValidator(check_background)]
"""What transparent pictures and videos are composited on: `#rrggbb`, or a basic colour name of CSS (`white`)."""


class MediaLimits(BaseModel):
    """Limits on a media file and on the resources for decoding it, and how transparency is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_pixels: int = Field(default=4096 * 4096, gt=0)
    """Pixels of one frame."""
    max_side: int = Field(default=8192, gt=0)
    """Pixels of width or height."""
    min_side: int = Field(default=16, gt=0)
    """Pixels of width or height."""
    max_frames: int = Field(default=200_000, gt=0)
    max_duration_s: float = Field(default=1800, gt=0)
    deadline_s: float = Field(default=60, gt=0)
    """Seconds that one operation may take, e.g. opening the file or decoding a run of frames."""
    turn_wait_s: float = Field(default=120, gt=0)
    """Seconds that an operation may wait until a processor is free for it; they do not count towards `deadline_s`."""
    cpu_s: float = Field(default=60, gt=0)
    """Seconds of processor time that one operation may take. A file whose headers let expect more is refused."""
    memory_bytes: int = Field(default=2 << 30, ge=256 << 20)
    """Memory of the decoder of one file in bytes, of which its libraries take 80 MiB. A decoder gets what the headers
    of its file let expect."""
    node_memory_bytes: int | None = Field(default=None, ge=256 << 20)
    """Memory of all decoders of a machine, in bytes; by default what Ray leaves free, at least 2 GiB, and at most a
    quarter of all memory."""
    node_memory_threshold: float = Field(default=RAY_THRESHOLD, gt=0, le=1)
    """Share of the memory of a machine in use up to which decoders take memory: `RAY_memory_usage_threshold` of Ray."""
    node_memory_folder: str | None = None
    """Folder of the file by which processes share this budget; by default one in `/dev/shm`."""
    node_memory_wait_s: float = Field(default=120, ge=0)
    """Seconds that a file waits for this memory before it is refused with status 503, as for a turn."""
    background: Background = "white"
    """What transparent pictures and videos are composited on: `#rrggbb`, or a basic colour name of CSS."""
    confinement: ConfinementPolicy = "available"
    """Whether decoder processes are confined to their file as far as the machine can, or a machine that lacks something
    decodes nothing (`required`)."""
    containers: tuple[Container, ...] = CONTAINERS
    """The formats of files that are opened; `mp4` includes MOV, `matroska` WebM."""
    video_codecs: tuple[Codec, ...] = VIDEO_CODECS
    """The codecs of videos and pictures that are decoded, by FFmpeg's names."""
    sound_codecs: tuple[Codec, ...] = SOUND_CODECS
    """The codecs of sound that are decoded, by FFmpeg's names."""
    protocols: tuple[Literal["file"], ...] = ("file",)
    """FFmpeg's protocols. There is only `file`: a decoder has no network."""
