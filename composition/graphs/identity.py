"""Whose face it is, as numbers that JSON can carry."""

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from services.limits import from_json

LENGTH_OFF = 0.01
"""How far an embedding's length may be from 1: as much as rounding to three digits leaves."""

Place = Annotated[float, Field(ge=-1, le=2)]
"""A fraction of a picture's width or height. A face may reach beyond the picture."""

Point = tuple[Place, Place]


class Identity(BaseModel):
    """Whose face it is and where it was, as `POST /v1/faces` says it: what a picture is painted with."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    embedding: Annotated[tuple[float, ...], Field(min_length=512, max_length=512, fail_fast=True)]
    """Of length 1."""
    keypoints: Annotated[tuple[Point, ...], Field(min_length=5, max_length=5, fail_fast=True)]
    """x and y of the left eye, the right eye, the nose, the left and the right corner of the mouth, as seen."""
    box: tuple[Place, Place, Place, Place]
    """Left, top, right, bottom."""

    @field_validator("embedding")
    @classmethod
    def _of_length_1(cls, embedding: tuple[float, ...]) -> tuple[float, ...]:
        length = math.hypot(*embedding)
        if not abs(length - 1) <= LENGTH_OFF:
            raise ValueError(f"must be of length 1 ± {LENGTH_OFF}, and is of length {length:.4g}")
        return embedding


IdentityField = Annotated[Identity, BeforeValidator(from_json)]
"""In a form it is JSON."""
