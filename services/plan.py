"""A request that has been checked: what a service hands to its model."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

from services.limits import check_start

Request = TypeVar("Request", bound=BaseModel)


@dataclass(frozen=True, slots=True, eq=False)
class Plan(Generic[Request]):
    """A request within its limits, with everything decided that it left open.

    A model that needs more (pictures, the first frame to send) extends it in `services/MODEL/plan.py`.
    """

    request: Request
    width: int
    """Pixels, at which the model samples."""
    height: int
    """Pixels, at which the model samples."""
    seed: int
    """Not negative: drawn where the request says -1."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoPlan(Plan[Request]):
    """A checked request for a video. Raises InvalidParameter when `start` is not within it."""

    start: int
    """Index of the first frame to send."""

    def __post_init__(self) -> None:
        check_start(self.start, cast("Any", self.request).num_frames)
