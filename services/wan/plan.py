"""A checked request of Wan."""

from dataclasses import dataclass

from services.frames import Frames
from services.plan import VideoPlan
from services.wan.request import WanRequest


@dataclass(frozen=True, slots=True, eq=False)
class WanPlan(VideoPlan[WanRequest]):
    """What Wan is to make."""

    image: Frames
    last_image: Frames | None
