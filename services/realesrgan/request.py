"""What may be asked of Real-ESRGAN."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class UpscaleRequest(BaseModel):
    """Frames, enlarged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Annotated[int, Field(ge=2, le=4)] = 4
    """How many times as wide and as high. A net that makes more is shrunk to it, each pixel the mean of its area."""
