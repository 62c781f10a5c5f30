"""The request of a rolling edit."""

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from composition.graphs.branching import Branch
from composition.graphs.request import MediaRequest
from composition.media.fault_kinds import FaultKind
from services.errors import InvalidParameter
from services.limits import parse_json_object
from services.qwen_edit.request import EdgeFilter, Editing


class RollingEditRequest(MediaRequest, Editing):
    """Redraw a first frame along a sequence of edge pictures: each frame is an edit of the previous one.

    Frame 0 is the first frame itself; frame k + 1 is frame k edited to follow edge picture k. The result has one frame
    more than there are edge pictures, unless `max_frames` is less.
    """

    MEDIA = {  # noqa: RUF012
        "init_frame": "image",
        "style_frame": "image",
        "edge_frames": "pictures",
        "edge_video": "video",
        "rgb_video": "video",
    }
    REFERENCE = "init_frame"

    init_frame: str | None = None
    """The first frame. Default: the first frame of `rgb_video`."""
    style_frame: str | None = None
    """The picture whose style is preserved, and the reference of `lpips_to_init`. Default: the first frame."""
    edge_frames: str | None = None
    """Edge pictures, white on black, in natural order of their names."""
    edge_video: str | None = None
    """A video of edge pictures."""
    rgb_video: str | None = None
    """An ordinary video. Edges are extracted from its frames if neither `edge_frames` nor `edge_video` is set, and its
    first frame is the default of `init_frame`."""
    edge_filter: EdgeFilter | None = None
    """Filter that extracts the edges. Default: `sobel` for `rgb_video`, otherwise `none`."""
    edge_start: Annotated[int, Field(ge=0)] = 0
    """Index of the first edge picture to use."""
    max_frames: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of frames of the result, including the first frame."""
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """Frames per second of the result. Default: that of the edge video, or 16 for pictures."""
    debug: bool = False
    """Store pictures of the edges and of the guidance for each frame."""
    branch_from: Annotated[Branch, BeforeValidator(parse_json_object)] | None = None
    """Begin at a frame of an older job. Fields that are not set are taken from that job; the default of `style_frame`
    is its first frame. Over HTTP only."""

    @model_validator(mode="after")
    def _check_sources(self) -> "RollingEditRequest":
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
    def faults(self) -> Collection[FaultKind]:
        """Kinds of faults that are looked for; cuts and still frames may be those of the edges."""
        return ("flicker", "jump", "flat")

    @property
    def given_frames(self) -> int:
        return 1

    @property
    def edges(self) -> tuple[str, str, EdgeFilter]:
        """The media field of the edges, its URL, and the filter that extracts them."""
        for field, url in (("edge_frames", self.edge_frames), ("edge_video", self.edge_video)):
            if url:
                return field, url, self.edge_filter or "none"
        return "rgb_video", self.rgb_video or "", self.edge_filter or "sobel"

    def check_media(self, frames: Mapping[str, int]) -> None:
        """Check that there are enough edges. Raises InvalidParameter."""
        self.count_frames(frames[self.edges[0]])

    def count_frames(self, edges: int) -> int:
        """Return the number of frames of the result for a number of edge pictures. Raises InvalidParameter."""
        left = edges - self.edge_start
        if left < 1:
            raise InvalidParameter(
                f"edge_start: must be less than the number of edges ({edges}), got {self.edge_start}",
                param="edge_start",
            )
        if self.max_frames is not None and self.max_frames > left + 1:
            after = f" from edge {self.edge_start} on" if self.edge_start else ""
            raise InvalidParameter(
                f"max_frames: {self.max_frames} frames need {self.max_frames - 1} edges, and there are {left}{after}",
                param="max_frames",
            )
        return self.max_frames or left + 1
