"""Settings of ModelScope's text-to-video."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from services.levers import CheckpointSettings, Offload, Precision
from services.limits import MAX_RUN
from services.text_to_video.request import MAX_FRAMES


class TextToVideoSettings(CheckpointSettings):
    """Settings of a replica."""

    variant: str | None = None
    """Variant of the checkpoint's files, e.g. `fp16` for `*.fp16.safetensors`; by default files without a variant."""
    dtype: Precision = "float16"
    offload: Offload = "none"
    solver: Literal["dpm++"] | None = None
    """DPM-Solver++, which the model card uses with 25 steps; by default the checkpoint's own solver, DDIM."""
    forward_chunking: bool = False
    """Compute the UNet's feed-forward layers one frame at a time, which saves memory and is slower."""
    decode_batch: Annotated[int, Field(ge=1, le=MAX_RUN)] = 8
    """Number of frames decoded and sent together; fewer take less memory."""
    max_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 200
    max_area: Annotated[int, Field(ge=1)] = 576 * 320
    """Largest number of pixels of a frame."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"num_frames": self.max_frames, "max_area": self.max_area, "steps": self.max_steps}
