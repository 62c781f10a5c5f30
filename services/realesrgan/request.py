"""Requests to Real-ESRGAN."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class UpscaleRequest(BaseModel):
    """Upscale frames."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: Annotated[int, Field(ge=2, le=4)] = 4
    """Scale factor of width and height. The output of a network with a larger factor is averaged down to it."""
