"""Validated requests of Stable Video Diffusion."""

from dataclasses import dataclass

from services.frames import Frames
from services.framing import Framing
from services.plan import VideoPlan
from services.svd.request import SvdRequest


@dataclass(frozen=True, slots=True, eq=False)
class SvdPlan(VideoPlan[SvdRequest]):
    """A validated video request of Stable Video Diffusion."""

    image: Frames
    """The first picture of the video, one frame."""
    framing: Framing
    """How the picture is fitted into the frames."""
