"""Settings of HunyuanDiT."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from services.levers import CheckpointSettings, Offload, Precision


class HunyuanDitSettings(CheckpointSettings):
    """Settings of a replica."""

    dtype: Precision = "float16"
    offload: Offload = "none"
    """What to keep in CPU memory. The transformer does not support `group`."""
    forward_chunking: Annotated[int, Field(ge=1)] | None = None
    """Number of tokens that a feed-forward layer processes at a time, to save memory; by default all."""
    compile: bool = False
    """Compile the transformer on first use and again for each new size; each compilation takes minutes."""
    max_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Largest number of pixels to sample."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"max_area": self.max_area, "steps": self.max_steps}
