"""A checked request of Flux."""

from dataclasses import dataclass

from services.flux.request import FluxRequest
from services.frames import Face
from services.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class FluxPlan(Plan[FluxRequest]):
    """What Flux is to make. `seed` is that of the first picture."""

    face: Face | None
    """None also where its strength is 0."""
