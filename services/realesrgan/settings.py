"""Settings of Real-ESRGAN."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from services.levers import ModelSettings, Precision
from services.weights.web_file import WebFile
from services.weights.weights import Weights

SHIPPED = Path(__file__).parent / "realesr-animevideov3.safetensors"
"""Real-ESRGAN's network for video, BSD-3-Clause; NOTICE names the copyright holder."""


class RealEsrganSettings(ModelSettings):
    """Settings of a replica."""

    weights: Weights | WebFile | None = None
    """Folder or repository with the weights, or a file by `{url, sha256}`; by default realesr-animevideov3, which
    is included in the project. realesr-general-x4v3 has the same architecture with twice the
    depth; RealESRGAN_x4plus takes fifteen times as long for each pixel."""
    file: str | None = None
    """Name of the safetensors or .pth file; required if there is more than one."""
    dtype: Precision = "bfloat16"
    compile: bool = False
    """Compile the network on first use of each size, which takes a minute."""
    batch: Annotated[int, Field(ge=1, le=16)] = 4
    """Number of frames in one forward pass."""
    tile: Annotated[int, Field(ge=0)] = 512
    """Side of a tile in the input frame, in pixels, without its margins; 0 turns tiling off."""
    tile_margin: Annotated[int, Field(ge=0, le=512)] | None = None
    """Margin on each side of a tile, in pixels. By default the radius of the network's receptive field, at most 64,
    which leaves no seams for realesr-animevideov3 (18 pixels) and realesr-general-x4v3 (34)."""
    max_area: Annotated[int, Field(ge=1)] = 7680 * 4320
    """Largest number of pixels of a frame of the result."""

    @property
    def source(self) -> str:
        return SHIPPED.stem if self.weights is None else self.weights.source

    @property
    def revision(self) -> str:
        return (self.weights.revision if self.weights else None) or ""
