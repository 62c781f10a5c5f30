"""What a media file may be, and what decoding it may cost."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MediaKind = Literal["image", "video", "pictures"]
"""What a file is; `pictures` is a zip archive of them, or a folder."""


class MediaLimits(BaseModel):
    """What a media file may be, and what decoding it may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_pixels: int = Field(default=4096 * 2304, gt=0)
    """Of one frame."""
    max_side: int = Field(default=8192, gt=0)
    """Pixels of width or height."""
    min_side: int = Field(default=16, gt=0)
    """Pixels of width or height."""
    max_frames: int = Field(default=200_000, gt=0)
    max_duration_s: float = Field(default=1800, gt=0)
    deadline_s: float = Field(default=60, gt=0)
    """How long one operation may take, e.g. opening, or decoding a run."""
    memory_bytes: int = Field(default=4 << 30, ge=256 << 20)
    """The address space of the process that decodes; its libraries take about 200 MiB of it."""
