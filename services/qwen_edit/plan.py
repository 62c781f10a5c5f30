"""A checked request of Qwen-Image-Edit."""

from dataclasses import dataclass

from services.frames import Frames
from services.plan import Plan
from services.qwen_edit.request import EditRequest


@dataclass(frozen=True, slots=True, eq=False)
class QwenEditPlan(Plan[EditRequest]):
    """What Qwen-Image-Edit is to edit."""

    image: Frames
    """The picture to edit."""
    edges: Frames | None
    """The picture that shows the edges, or from which they are taken."""
    first: Frames
    """The clip's first frame, whose style is kept and to which the result is compared."""
    size: tuple[int, int]
    """Width and height of the result, in pixels."""
