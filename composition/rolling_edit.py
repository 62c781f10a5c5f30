"""Rolling edit: a first frame and a sequence of edges → a video, each frame edited out of the one before."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from composition.calls import Handle, Transport, opened, stop_everywhere, stream
from composition.decode import Decoder
from composition.graph import (
    NOTHING_KNOWN,
    Graph,
    GraphRequest,
    GraphSettings,
    Known,
    Media,
    Need,
    Stages,
    completed,
)
from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, Pixels, Progress, Scores, Sketch
from services.limits import MAX_SEED, draw_seed, from_json
from services.model import Role
from services.qwen_edit.request import EdgeFilter, EditFields, EditRequest

MAX_FRAME = 2**31 - 1
DEFAULT_RATE = Fraction(16)
"""Frames per second where the edges are pictures and say none."""


class Branch(BaseModel):
    """A frame of an older rolling edit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    video: str
    """The older job's id."""
    frame: Annotated[int, Field(ge=0, le=MAX_FRAME)]


class RollingEditRequest(GraphRequest, EditFields):
    """First frame and edges to video. The result has one frame more than there are edges, unless `max_frames` is less.

    Frame 0 is the first frame as it is given; frame k + 1 is frame k redrawn along edge k.
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


@dataclass(frozen=True)
class Roll:
    """One rolling edit, with everything decided that was left open."""

    edit: EditRequest
    style: Frames
    """Whose style is held."""
    seed: int
    total: int
    """Frames, the first one counted."""
    rate: Fraction
    start: int
    """The edge that leads to frame 1."""
    key: str


class RollingEdit:
    """The graph. Each frame is a call of its own, so that several edits take turns at the replicas."""

    def __init__(self, models: Mapping[Role, Handle], settings: GraphSettings, transport: Transport) -> None:
        self._qwen_edit = models["guided-edit"]
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: RollingEditRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the frames as they are made, each behind its Sketches and its Scores.

        Frames are numbered from 0, which is the given first frame. Where `known` has frames, those are not made again:
        the run goes on behind the last of them, from its pixels.
        """
        request = completed(request, self._settings.defaults)
        if known.again:
            await stop_everywhere(self._qwen_edit, known.key, self._transport)
        first = await self._first(request)
        style = await self._media.picture(request.style_frame) if request.style_frame else first
        async with self._media.opened(request.edges[1]) as edges:
            roll = _planned(request, style, edges, known)
            yield Fact("seed", roll.seed)
            yield Fact("frames_total", roll.total)
            if known.frames == 0:
                yield Frames(first.pixels, 0, roll.rate)
            previous = await self._media.own(known.kept[-1]) if known.frames > 1 else first
            made = max(1, known.frames)
            stages = Stages()
            async with aclosing(edges.runs(roll.start + made - 1, roll.total - made)) as runs:
                async for run in runs:
                    for pixels in run.pixels:
                        async with aclosing(self._frame(roll, made, previous, pixels)) as items:
                            async for item in items:
                                if isinstance(item, Frames):
                                    previous = item
                                if stages.passes(item):
                                    yield item
                        made += 1
            for item in [*_fallen_short(roll, request.edges[0], edges, made), *stages.done()]:
                yield item

    async def _first(self, request: RollingEditRequest) -> Frames:
        if request.init_frame:
            return await self._media.picture(request.init_frame)
        async with self._media.opened(request.rgb_video or "") as video, aclosing(video.runs(0, 1)) as runs:
            return await anext(runs)

    async def _frame(self, roll: Roll, index: int, previous: Frames, pixels: Pixels) -> AsyncGenerator[Item]:
        """Make frame `index` out of the one before it and of its edge, (h, w, 3)."""
        steps = roll.edit.steps
        seed = (roll.seed + roll.start + index) % (MAX_SEED + 1)
        edit = roll.edit.model_copy(update={"seed": seed})
        edge = Frames(np.ascontiguousarray(pixels)[None])
        call = stream(self._qwen_edit, "edit", edit, previous, edge, roll.style, roll.key)
        async with opened(call, self._transport) as items:
            async for item in items:
                match item:
                    case Progress():
                        done = (index - 1) * steps + item.done
                        yield Progress("edit", done, (roll.total - 1) * steps)
                    case Frames():
                        yield Frames(item.pixels, index, roll.rate)
                    case Scores() | Sketch():
                        yield replace(item, frame=index)
                    case _:
                        yield item


GRAPH = Graph("rolling-edit", RollingEditRequest, RollingEdit, needs=(Need("guided-edit", EditRequest, at=""),))


def _fallen_short(roll: Roll, field: str, edges: Decoder, made: int) -> list[Fact]:
    """What is known of the edges only when they have all been read."""
    if made < roll.total:  # some files do not know how many frames they have
        return [Fact("frames_total", made), Fact("degraded", f"{field}: ended after {made - 1} edges")]
    return [Fact("degraded", f"{field}: {edges.facts.damaged}")] if edges.facts.damaged else []


def _planned(request: RollingEditRequest, style: Frames, edges: Decoder, known: Known) -> Roll:
    fields: dict[str, Any] = {name: getattr(request, name) for name in EditFields.model_fields}
    edit = EditRequest(**fields, edge_filter=request.edges[2], debug=request.debug)
    rate = Fraction(str(request.fps)) if request.fps else edges.facts.rate or DEFAULT_RATE
    total = request.frames_total(edges.facts.frames)
    return Roll(edit, style, draw_seed(request.seed), total, rate, request.edge_start, known.key)
