"""Validated requests of HunyuanDiT."""

from dataclasses import dataclass

from services.frames import Frames
from services.hunyuan_dit.request import RestyleRequest
from services.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class HunyuanDitPlan(Plan[RestyleRequest]):
    """A validated restyling request of HunyuanDiT."""

    image: Frames
    """The picture to restyle, one frame."""
