"""A validated request, which a service passes to its model."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

from services.limits import check_start

Request = TypeVar("Request", bound=BaseModel)


@dataclass(frozen=True, slots=True, eq=False)
class Plan(Generic[Request]):
    """A validated request with its size and seed chosen.

    A model that needs more (pictures, the first frame to send) extends the class in `services/MODEL/plan.py`.
    """

    request: Request
    width: int
    """Width in pixels at which the model samples."""
    height: int
    """Height in pixels at which the model samples."""
    seed: int
    """Random seed, not negative; a request with -1 gets a random one."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoPlan(Plan[Request]):
    """A validated request for a video. Raises InvalidParameter if `start` is outside the video."""

    start: int
    """Index of the first frame to send."""

    def __post_init__(self) -> None:
        check_start(self.start, cast("Any", self.request).num_frames)
