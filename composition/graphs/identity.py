"""The JSON form of a face."""

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from services.limits import parse_json_object

LENGTH_TOLERANCE = 0.01
"""Largest difference between an embedding's length and 1, as rounding to three digits can cause."""

Coordinate = Annotated[float, Field(ge=-1, le=2)]
"""A fraction of the picture's width or height. A face may extend beyond the picture."""

Side = Annotated[int, Field(ge=1, le=1_000_000)]

Point = tuple[Coordinate, Coordinate]


class Identity(BaseModel):
    """A face as `POST /v1/faces` returns it: its identity and its position in the picture."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    embedding: Annotated[tuple[float, ...], Field(min_length=512, max_length=512, fail_fast=True)]
    """A unit vector that identifies the person."""
    keypoints: Annotated[tuple[Point, ...], Field(min_length=5, max_length=5, fail_fast=True)]
    """x and y of the left eye, right eye, nose, left and right corner of the mouth, from the viewer's side."""
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    """Left, top, right, bottom."""
    size: tuple[Side, Side] | None = None
    """Width and height of the picture in pixels, which `face_pose: photo` needs."""

    @field_validator("embedding")
    @classmethod
    def _check_length(cls, embedding: tuple[float, ...]) -> tuple[float, ...]:
        length = math.hypot(*embedding)
        if not abs(length - 1) <= LENGTH_TOLERANCE:
            raise ValueError(f"must have length 1 ± {LENGTH_TOLERANCE}, not {length:.4g}")
        return embedding


IdentityField = Annotated[Identity, BeforeValidator(parse_json_object)]
"""Form fields carry it as JSON text."""
