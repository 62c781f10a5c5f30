"""Settings of Stable Video Diffusion."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from services.levers import CheckpointSettings, Offload, Precision
from services.svd.request import MAX_FRAMES


class SvdSettings(CheckpointSettings):
    """Settings of a replica.

    For a GPU with 8 GB: `offload: model`, `forward_chunking: true`, `decode_window: 2`, `decode_overlap: 0`, which
    diffusers' documentation recommends for less than 8 GB. For 16 GB: `offload: model`, `decode_window: 4`,
    `decode_overlap: 2`. The defaults are for 24 GB and more.
    """

    variant: str | None = None
    """Variant of the checkpoint's files, e.g. `fp16` for `*.fp16.safetensors`; by default files without a variant."""
    dtype: Precision = "float16"
    """Precision of all networks. A VAE that requires float32 to encode still uses it."""
    offload: Offload = "none"
    forward_chunking: bool = False
    """Compute the UNet's feed-forward layers one frame at a time, which saves memory and is slower."""
    compile: bool = False
    """Compile the UNet on first use and again for each new size; each compilation takes minutes."""
    decode_window: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 8
    """Number of frames decoded and sent together. The decoder is temporal, so larger windows flicker less."""
    decode_overlap: Annotated[int, Field(ge=0, le=32)] = 3
    """Number of frames on each side of a window that are decoded with it and discarded, to avoid visible seams."""
    max_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 50
    max_area: Annotated[int, Field(ge=1)] = 576 * 1024
    """Largest number of pixels of a frame."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"num_frames": self.max_frames, "max_area": self.max_area, "steps": self.max_steps}
