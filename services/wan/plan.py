"""Validated requests of Wan."""

from dataclasses import dataclass
from typing import TypeAlias

from services.frames import Frames
from services.framing import Framing
from services.plan import VideoPlan
from services.wan.request import WanRequest, WanTextRequest


@dataclass(frozen=True, slots=True, eq=False)
class WanPlan(VideoPlan[WanRequest]):
    """A validated video request of Wan."""

    image: Frames
    """The first picture of the video, one frame."""
    last_image: Frames | None
    """The last picture of the video, one frame; None if the model chooses the end."""
    framing: Framing
    """How the picture is fitted into the frames."""


WanTextPlan: TypeAlias = VideoPlan[WanTextRequest]
"""A validated request of Wan for a video from a prompt alone."""
