"""Validated requests of Flux."""

from dataclasses import dataclass

from services.flux.request import FluxRequest
from services.frames import Face
from services.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class FluxPlan(Plan[FluxRequest]):
    """A validated request of Flux. `seed` belongs to the first picture."""

    face: Face | None
    """The face to reproduce; None if the request has no face or its `identity_strength` is 0."""
    pose: Face | None = None
    """The face whose key points set the pose and the position of `face`; None leaves them to the model."""
