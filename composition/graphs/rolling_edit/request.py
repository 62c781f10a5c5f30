"""What a rolling edit is asked for."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from composition.graphs.request import GraphRequest
from services.errors import InvalidParameter
from services.limits import from_json
from services.qwen_edit.request import EdgeFilter, Editing

MAX_FRAME = 2**31 - 1


class Branch(BaseModel):
    """A frame of an older rolling edit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    video: str
    """The older job's id."""
    frame: Annotated[int, Field(ge=0, le=MAX_FRAME)]
    """Which of its frames, from 0."""


class RollingEditRequest(GraphRequest, Editing):
    """Make a video of a first frame and edges: each frame is the one before, edited along the next edges.

    Frame 0 is the first frame as it is given; frame k + 1 is frame k redrawn along edge k. There is one frame more than
    there are edges, unless `max_frames` is less.
    """

    MEDIA = {  # noqa: RUF012
        "init_frame": "image",
        "style_frame": "image",
        "edge_frames": "pictures",
        "edge_video": "video",
        "rgb_video": "video",
    }
    REFERENCE = "init_frame"
    STAGES = {"edit": 1.0}  # noqa: RUF012
    KEEPS_FRAMES = True
    SEGMENTS = (2, 8)

    init_frame: str | None = None
    """The first frame; by default that of `rgb_video`."""
    style_frame: str | None = None
    """Whose style the Gram loss holds, and which `lpips_to_init` compares with; by default the first frame."""
    edge_frames: str | None = None
    """Edge pictures, white on black, in the natural order of their names."""
    edge_video: str | None = None
    """A video of edge pictures."""
    rgb_video: str | None = None
    """An ordinary video: its first frame is the default `init_frame`, and where neither of the two above is given,
    each of its frames gives an edge picture."""
    edge_filter: EdgeFilter | None = None
    """How edges are taken from what shows none yet; by default `sobel` from `rgb_video`, and `none` elsewhere."""
    edge_start: Annotated[int, Field(ge=0)] = 0
    """The first edge to use, from 0."""
    max_frames: Annotated[int, Field(ge=1)] | None = None
    """The most frames of the result, the first one counted."""
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """Frames per second of the result; by default the edge video's, and 16 for pictures."""
    debug: bool = False
    """Keep pictures of the edges and of what guidance did, for each frame."""
    branch_from: Annotated[Branch, BeforeValidator(from_json)] | None = None
    """Begin at a frame of an older job, with its fields for all that is not given, and its first frame for
    `style_frame`. Over HTTP only."""

    @model_validator(mode="after")
    def _something_to_follow(self) -> "RollingEditRequest":
        if self.edge_frames is not None and self.edge_video is not None:
            raise InvalidParameter("edge_video: give either this or edge_frames, not both", param="edge_video")
        if not (self.edge_frames or self.edge_video or self.rgb_video):
            raise InvalidParameter(
                "edge_frames: there are no edges; give edge_frames, edge_video or rgb_video", param="edge_frames"
            )
        if not (self.init_frame or self.rgb_video):
            raise InvalidParameter(
                "init_frame: there is no first frame; give init_frame or rgb_video", param="init_frame"
            )
        return self

    @property
    def edges(self) -> tuple[str, str, EdgeFilter]:
        """The field the edges are in, where they lie, and how they are taken."""
        for field, url in (("edge_frames", self.edge_frames), ("edge_video", self.edge_video)):
            if url:
                return field, url, self.edge_filter or "none"
        return "rgb_video", self.rgb_video or "", self.edge_filter or "sobel"

    def check_media(self, frames: Mapping[str, int]) -> None:
        """Raises InvalidParameter where there are fewer edges than are asked for."""
        self.frames_total(frames[self.edges[0]])

    def frames_total(self, edges: int) -> int:
        """How many frames the result has, by the number of edges that there are. Raises InvalidParameter."""
        left = edges - self.edge_start
        if left < 1:
            raise InvalidParameter(
                f"edge_start: must be less than the {edges} edges that there are, got {self.edge_start}",
                param="edge_start",
            )
        if self.max_frames is not None and self.max_frames > left + 1:
            after = f" from edge {self.edge_start} on" if self.edge_start else ""
            raise InvalidParameter(
                f"max_frames: {self.max_frames} frames need {self.max_frames - 1} edges, and there are {left}{after}",
                param="max_frames",
            )
        return self.max_frames or left + 1
