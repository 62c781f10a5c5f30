"""What a picture of a face must be, within which limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import check_limit

FIELD = "face"
"""The request's field whose picture is looked at."""


class Requirements(BaseModel):
    """What is asked of a face. Beyond these an embedding says little about whose face it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min_face: Annotated[int, Field(ge=1)] = 64
    """Pixels of the shorter side of the face's box. At 64 the crop that the recogniser reads is the face enlarged by a
    fifth; much below, most of what it reads is made up."""
    max_yaw: Annotated[float, Field(gt=0, le=90)] = 45.0
    """Degrees that a face may be turned to the side; beyond it one eye and one cheek are hardly seen."""
    max_pixels: Annotated[int, Field(ge=1)] = 4096 * 4096
    """Pixels of the picture."""

    def check_picture(self, width: int, height: int) -> None:
        """Raise LimitExceeded when the picture is too large. Pixels."""
        check_limit(FIELD, width * height, self.max_pixels, "pixels")
