"""Rolling edit: a first frame and a sequence of edges → a video, each frame edited out of the one before."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from composition.graphs.calls import Models, Transport, opened, stop_everywhere, stream
from composition.graphs.fields import completed
from composition.graphs.inputs import Media
from composition.graphs.rolling_edit.request import RollingEditRequest
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known, Stages
from composition.media.decode import Decoder
from services.frames import Fact, Frames, Item, Pixels, Progress, Scores, Sketch
from services.limits import MAX_SEED, draw_seed
from services.qwen_edit.request import Editing, EditRequest
from services.roles import GuidedEdit

DEFAULT_RATE = Fraction(16)
"""Frames per second where the edges are pictures and say none."""


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

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._editor = models.guided_edit
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
            await stop_everywhere(self._editor, known.key, self._transport)
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
            async with aclosing(edges.stream_runs(roll.start + made - 1, roll.total - made)) as runs:
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
        async with self._media.opened(request.rgb_video or "") as video, aclosing(video.stream_runs(0, 1)) as runs:
            return await anext(runs)

    async def _frame(self, roll: Roll, index: int, previous: Frames, pixels: Pixels) -> AsyncGenerator[Item]:
        """Make frame `index` out of the one before it and of its edge, (h, w, 3)."""
        steps = roll.edit.steps
        seed = (roll.seed + roll.start + index) % (MAX_SEED + 1)
        edit = roll.edit.model_copy(update={"seed": seed})
        edge = Frames(np.ascontiguousarray(pixels)[None])
        call = stream(self._editor, GuidedEdit[EditRequest].edit, edit, previous, edge, roll.style, roll.key)
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


def _fallen_short(roll: Roll, field: str, edges: Decoder, made: int) -> list[Fact]:
    """What is known of the edges only when they have all been read."""
    if made < roll.total:  # some files do not know how many frames they have
        return [Fact("frames_total", made), Fact("degraded", f"{field}: ended after {made - 1} edges")]
    return [Fact("degraded", f"{field}: {edges.facts.damaged}")] if edges.facts.damaged else []


def _planned(request: RollingEditRequest, style: Frames, edges: Decoder, known: Known) -> Roll:
    fields: dict[str, Any] = {name: getattr(request, name) for name in Editing.model_fields}
    edit = EditRequest(**fields, edge_filter=request.edges[2], debug=request.debug)
    rate = Fraction(str(request.fps)) if request.fps else edges.facts.rate or DEFAULT_RATE
    total = request.frames_total(edges.facts.frames)
    return Roll(edit, style, draw_seed(request.seed), total, rate, request.edge_start, known.key)
