"""Request of the toy model."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import Seed

MAX_FRAMES = 240


class ToyRequest(BaseModel):
    """A video that shows one image for a while."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 8
    """Number of frames."""
    fps: Annotated[int, Field(ge=1, le=60)] = 8
    """Frames per second."""
    fade: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How dark the last frame is: 0 keeps the image, 1 ends in black."""
    seed: Seed = -1
    """Reported, but without effect; -1 draws a seed."""
