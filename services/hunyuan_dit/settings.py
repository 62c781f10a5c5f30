"""Settings of HunyuanDiT."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from services.levers import CheckpointSettings, Offload, Precision


class HunyuanDitSettings(CheckpointSettings):
    """Settings of a replica."""

    dtype: Precision = "float16"
    offload: Offload = "none"
    """`group` cannot be had: the transformer does not support it."""
    forward_chunking: Annotated[int, Field(ge=1)] | None = None
    """Tokens that a feed-forward layer takes at a time, which saves memory; by default all."""
    compile: bool = False
    """Compile the transformer on first use, and again for other sizes, which then takes minutes."""
    max_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Pixels at which a picture may be sampled."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"max_area": self.max_area, "steps": self.max_steps}
