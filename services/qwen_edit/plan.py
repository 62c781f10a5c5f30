"""Validated requests of Qwen-Image-Edit."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.frames import Frames
from services.plan import Plan
from services.qwen_edit.request import EditRequest


@dataclass(frozen=True, slots=True, eq=False)
class QwenEditPlan(Plan[EditRequest]):
    """A validated editing request of Qwen-Image-Edit."""

    image: Frames
    """The picture to edit."""
    edges: Frames | None
    """An edge map, or a picture whose edges are extracted; None if no edges are given."""
    first: Frames
    """The clip's first frame: the reference for the style and for the scores."""
    size: tuple[int, int]
    """Width and height of the result, in pixels."""
    references: Sequence[Frames] = ()
    """Pictures that the prompt may refer to, each one frame of any size."""
