"""Requirements on an image of a face."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import check_limit

FIELD = "face"
"""The request field with the image."""


class Requirements(BaseModel):
    """Requirements on a face. The embedding of a face that does not meet them does not identify the person reliably."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min_face: Annotated[int, Field(ge=1)] = 64
    """Shorter side of the face's bounding box, in pixels. At 64 the recogniser's input is the face enlarged by a fifth;
    at much smaller sizes most of its input is interpolated."""
    max_yaw: Annotated[float, Field(gt=0, le=90)] = 45.0
    """Largest yaw of the head, in degrees; beyond it one eye and one cheek are hardly visible."""
    max_pixels: Annotated[int, Field(ge=1)] = 4096 * 4096
    """Largest number of pixels of the image."""

    def check_picture(self, width: int, height: int) -> None:
        """Raise LimitExceeded if the image is too large. Width and height are in pixels."""
        check_limit(FIELD, width * height, self.max_pixels, "pixels")
