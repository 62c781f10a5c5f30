"""Settings of Stable Video Diffusion."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from services.levers import CheckpointSettings, Offload, Precision
from services.svd.request import MAX_FRAMES


class SvdSettings(CheckpointSettings):
    """Settings of a replica.

    For a card of 8 GB: `offload: model`, `forward_chunking: true`, `decode_window: 2`, `decode_overlap: 0`, which is
    what diffusers' documentation gives for less than 8 GB. For 16 GB: `offload: model`, `decode_window: 4`,
    `decode_overlap: 2`. The defaults are for 24 GB and more.
    """

    variant: str | None = None
    """Which of a checkpoint's files to read, e.g. `fp16` for `*.fp16.safetensors`; by default the plain ones."""
    dtype: Precision = "float16"
    """Of everything; a VAE that asks for it still encodes the picture in float32."""
    offload: Offload = "none"
    forward_chunking: bool = False
    """Compute the UNet's feed-forward layers for one frame at a time: less memory, slower."""
    compile: bool = False
    """Compile the UNet on first use, which then takes minutes, and again for each new size."""
    decode_window: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 8
    """Frames that are decoded and sent together. The decoder looks forward and back, so more flicker less."""
    decode_overlap: Annotated[int, Field(ge=0, le=32)] = 3
    """Frames on either side of a window that are decoded with it and thrown away, so that windows join smoothly."""
    max_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 50
    max_area: Annotated[int, Field(ge=1)] = 576 * 1024
    """Pixels of a frame."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"num_frames": self.max_frames, "max_area": self.max_area, "steps": self.max_steps}
