"""Settings of Real-ESRGAN."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from services.levers import ModelSettings, Precision
from services.weights.weights import Weights

SHIPPED = Path(__file__).parent / "realesr-animevideov3.safetensors"
"""Real-ESRGAN's net for video, BSD-3-Clause; NOTICE says whose it is."""


class RealEsrganSettings(ModelSettings):
    """Settings of a replica."""

    weights: Weights | None = None
    """A folder or repository with one file of weights; by default realesr-animevideov3, which comes with the project.
    realesr-general-x4v3 is the same net twice as deep; RealESRGAN_x4plus costs fifteen times as much for each pixel."""
    file: str | None = None
    """Which file in it, safetensors or .pth; by default the only one."""
    dtype: Precision = "bfloat16"
    compile: bool = False
    """Compile the net on first use of each size, which then takes a minute."""
    batch: Annotated[int, Field(ge=1, le=16)] = 4
    """Frames in one pass."""
    tile: Annotated[int, Field(ge=0)] = 512
    """Pixels of a tile's side in what is given, its margins not counted; 0 takes every picture whole."""
    tile_margin: Annotated[int, Field(ge=0, le=512)] | None = None
    """Pixels that a tile sees beyond its sides. By default what the net can see, 64 at most: with that the tiles of
    realesr-animevideov3 (18 pixels) and realesr-general-x4v3 (34) fit without a seam."""
    max_area: Annotated[int, Field(ge=1)] = 7680 * 4320
    """Pixels of a frame of the result."""

    @property
    def source(self) -> str:
        return SHIPPED.stem if self.weights is None else self.weights.source

    @property
    def revision(self) -> str:
        return (self.weights.revision if self.weights else None) or ""
