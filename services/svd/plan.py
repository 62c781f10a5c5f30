"""A checked request of Stable Video Diffusion."""

from dataclasses import dataclass

from services.frames import Frames
from services.plan import VideoPlan
from services.svd.request import SvdRequest


@dataclass(frozen=True, slots=True, eq=False)
class SvdPlan(VideoPlan[SvdRequest]):
    """What Stable Video Diffusion is to make."""

    image: Frames
