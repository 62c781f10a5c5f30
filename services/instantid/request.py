"""Requirements for a picture of a face, and their limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import check_limit

FIELD = "face"
"""The request's field for the picture of a face."""


class Requirements(BaseModel):
    """Requirements for a face. Outside these limits an embedding hardly identifies the person."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min_face: Annotated[int, Field(ge=1)] = 64
    """Minimum shorter side of the face's box, in pixels. At 64 the recogniser's crop enlarges the face by a fifth;
    much below that, most of the crop is interpolated."""
    max_yaw: Annotated[float, Field(gt=0, le=90)] = 45.0
    """Maximum yaw of a face, in degrees; beyond it one eye and one cheek are hardly visible."""
    max_pixels: Annotated[int, Field(ge=1)] = 4096 * 4096
    """Maximum area of the picture, in pixels."""

    def check_picture(self, width: int, height: int) -> None:
        """Raise LimitExceeded if a picture of this width and height, in pixels, is too large."""
        check_limit(FIELD, width * height, self.max_pixels, "pixels")
