"""The request of a rolling edit."""

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from composition.graphs.branching import Branch
from composition.graphs.request import MediaRequest
from composition.media.fault_kinds import FaultKind
from services.errors import InvalidParameter
from services.limits import parse_json_object
from services.qwen_edit.request import EdgeFilter, Editing

MAX_TRIES = 16
GATED = ("edge_loss", "gram_loss", "temporal_loss", "lpips_to_init", "lpips_to_prev")
"""The scores that can have a maximum."""

Maximum = Annotated[float, Field(gt=0)]


class Gate(BaseModel):
    """Maximum scores of a frame. A frame with a score above its maximum is made again, with the next seed.

    If no try passes, the one with the smallest excess is kept, and `degraded` of the job names the frame. The excess of
    a try is the largest of its scores' excesses, each relative to the score's maximum.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    edge_loss: Maximum | None = None
    """Maximum difference from the requested edges; with `ttlg.loss` mse, 0 is no difference and 1 a blank picture."""
    gram_loss: Maximum | None = None
    """Maximum difference of the style from the style frame; requires a model with VGG16."""
    temporal_loss: Maximum | None = None
    """Maximum difference from the previous frame."""
    lpips_to_init: Maximum | None = None
    """Maximum LPIPS distance to the first frame, or to the style frame if given; requires a model with LPIPS."""
    lpips_to_prev: Maximum | None = None
    """Maximum LPIPS distance to the previous frame; requires a model with LPIPS."""
    tries: Annotated[int, Field(ge=1, le=MAX_TRIES)] = 3
    """Maximum number of times that a frame is made, including the first."""

    @model_validator(mode="after")
    def _check_maxima(self) -> "Gate":
        if not self.maxima:
            raise InvalidParameter(f"gate: give at least one maximum: {', '.join(GATED)}", param="gate")
        return self

    @property
    def maxima(self) -> dict[str, float]:
        """Score → its maximum."""
        values: dict[str, float | None] = {name: getattr(self, name) for name in GATED}
        return {name: value for name, value in values.items() if value is not None}


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
    gate: Annotated[Gate | None, BeforeValidator(parse_json_object)] = None
    """Maximum scores of a frame; a frame that is above one is made again. Default: every frame is accepted."""
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

    def check_scores(self, unmeasured: Mapping[str, str]) -> None:
        """Check that the scores with a maximum are measured. Raises InvalidParameter."""
        for name, maximum in self.gate.maxima.items() if self.gate is not None else ():
            if name in unmeasured:
                reason = f"this model does not measure it: `{unmeasured[name]}` is not configured"
                raise InvalidParameter(
                    f"gate.{name}: must not be set, because {reason}; got {maximum:g}", param=f"gate.{name}"
                )

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
