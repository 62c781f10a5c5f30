"""Rolling edit: a first frame and a sequence of edge pictures → a video; each frame is an edit of the previous one."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from composition.graphs.calls import Models, Transport, open_stream, stop_everywhere, stream
from composition.graphs.fields import complete_request
from composition.graphs.inputs import Media, report_reading
from composition.graphs.rolling_edit.gating import GateReport, Tries, combine_degraded
from composition.graphs.rolling_edit.request import Gate, RollingEditRequest
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known, Stages
from composition.media.decode import Decoder
from services.errors import ModelFailed
from services.frames import Fact, Frames, Item, Progress, Scores, Sketch
from services.limits import MAX_SEED, draw_seed
from services.qwen_edit.request import Editing, EditRequest
from services.roles import GuidedEdit

DEFAULT_RATE = Fraction(16)
"""Frames per second if the edges are pictures and the request sets no `fps`."""


@dataclass(frozen=True)
class EditPlan:
    """A checked request with all defaults resolved."""

    edit: EditRequest
    style: Frames
    """The picture whose style is preserved."""
    seed: int
    total: int
    """Number of frames, including the first."""
    rate: Fraction
    has_own_rate: bool
    """Whether the request sets the frame rate; otherwise the frames follow the edges."""
    start: int
    """Index of the edge picture from which frame 1 is made."""
    key: str
    gate: Gate | None

    @property
    def tries(self) -> int:
        """Maximum number of pictures that are made for a frame."""
        return 1 if self.gate is None else self.gate.tries

    @property
    def frame_steps(self) -> int:
        """Maximum number of denoising steps for a frame."""
        return self.tries * self.edit.steps

    @property
    def steps(self) -> int:
        """Maximum number of denoising steps."""
        return (self.total - 1) * self.frame_steps

    def seed_of(self, index: int, tries: int) -> int:
        """Return the seed for frame `index` after `tries` tries of it: those of its edge picture and the ones after it.

        It depends on nothing else, so that a resumed edit, or a branch, makes the same frames.
        """
        return (self.seed + self.start + index + tries) % (MAX_SEED + 1)


@dataclass(frozen=True)
class Clock:
    """When the frames of an edit along a video with a variable frame rate are shown: each as long as its edge picture.

    Frame 0 has no edge picture and is shown for the average duration.
    """

    shift: Fraction
    """Time in seconds from the appearance of an edge picture in its video to that of its frame in the result."""

    def find_times(self, edge: Frames) -> tuple[Fraction, ...]:
        """Return when the frame of an edge picture appears and disappears, in seconds."""
        return tuple(time + self.shift for time in edge.list_times())


async def _read_clock(plan: EditPlan, edges: Decoder) -> Clock | None:
    """Return the clock of the edit; None if the frame rate is constant."""
    if plan.has_own_rate or not edges.facts.is_variable:
        return None
    async with aclosing(edges.stream_runs(plan.start, 1)) as runs:
        begin = (await anext(runs)).list_times()[0]
    return Clock(1 / plan.rate - begin)


class RollingEdit:
    """The graph. Each frame is a separate call, so that several edits share the replicas."""

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._editor = models.guided_edit
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: RollingEditRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the frames in order, each after its Sketches and Scores.

        Scores that are not `kept` are those of a picture that the gate refused. Frame 0 is the first frame of the
        request. If `known` has frames, the run continues from the last of them.
        """
        request = complete_request(request, self._settings.defaults)
        if known.is_retry:
            await stop_everywhere(self._editor, known.key, self._transport)
        first = await self._read_first(request, known.owner)
        style = await self._media.read_picture(request.style_frame, known.owner) if request.style_frame else first
        async with self._media.open(request.edges[1], known.owner) as edges:
            plan = _make_plan(request, style, edges, known)
            yield Fact("seed", plan.seed)
            yield Fact("frames_total", plan.total)
            if edges.facts.sound is not None:
                yield Fact("sound", "left out: the result is a new video, which follows only the edges")
            clock = await _read_clock(plan, edges)
            if known.frames == 0:
                yield Frames(first.pixels, 0, plan.rate, clock and (Fraction(0), 1 / plan.rate))
            previous = await self._media.read_stored(known.frame_urls[-1]) if known.frames > 1 else first
            count, stages, scores = max(1, known.frames), Stages(plan.total), list(known.frame_scores)
            async with aclosing(self._make_frames(plan, count, previous, edges, clock)) as items:
                async for item in items:
                    if isinstance(item, Frames):
                        count = item.stop
                    elif isinstance(item, Scores) and item.kept:
                        scores.append(item)
                    if stages.add(item):
                        yield item
            ending = [*_report_edges(plan, request.edges[0], edges, count), *_report_gate(plan, scores)]
            for item in [*combine_degraded(ending), *stages.finish()]:
                yield item

    async def _read_first(self, request: RollingEditRequest, owner: str) -> Frames:
        if request.init_frame:
            return await self._media.read_picture(request.init_frame, owner)
        async with self._media.open(request.rgb_video or "", owner) as video, aclosing(video.stream_runs(0, 1)) as runs:
            return await anext(runs)

    async def _make_frames(
        self, plan: EditPlan, index: int, previous: Frames, edges: Decoder, clock: Clock | None
    ) -> AsyncGenerator[Item]:
        """Make frame `index` and all later ones, each from the previous one."""
        async with aclosing(edges.stream_runs(plan.start + index - 1, plan.total - index)) as runs:
            async for run in runs:
                for edge in run.split():
                    timed = replace(edge, times=clock and clock.find_times(edge))
                    async with aclosing(self._make_frame(plan, index, previous, timed)) as items:
                        async for item in items:
                            if isinstance(item, Frames):
                                previous = item
                            yield item
                    index += 1

    async def _make_frame(self, plan: EditPlan, index: int, previous: Frames, edge: Frames) -> AsyncGenerator[Item]:
        """Make frame `index` from the previous frame and its edge picture, which has the times of the new frame.

        It is made again while the gate refuses it. Steps of tries that are not needed count as done.

        Raises:
            ModelFailed: the model returned no picture.
        """
        tries = Tries(plan.gate, plan.tries)
        while not tries.is_decided:
            number, seed = tries.count, plan.seed_of(index, tries.count)
            async with aclosing(self._edit(plan, seed, previous, edge)) as items:
                async for item in items:
                    match item:
                        case Progress():
                            done = (index - 1) * plan.frame_steps + number * plan.edit.steps + item.done
                            yield Progress("edit", done, plan.steps)
                        case Frames() | Scores() | Sketch():
                            for each in tries.take(_renumber(item, plan, index, edge), seed):
                                yield each
                        case _:
                            yield item
            if tries.count == number:
                raise ModelFailed(f"frame {index}: the model returned no picture")
        if tries.count < plan.tries:
            yield Progress("edit", index * plan.frame_steps, plan.steps)

    async def _edit(self, plan: EditPlan, seed: int, previous: Frames, edge: Frames) -> AsyncGenerator[Item]:
        """Yield what the model sends for one picture."""
        edit = plan.edit.model_copy(update={"seed": seed})
        picture = Frames(edge.pixels)
        editor = self._editor.prefer(edit.lora_set)
        call = stream(editor, GuidedEdit[EditRequest].edit, edit, previous, picture, plan.style, plan.key)
        async with open_stream(call, self._transport) as items:
            async for item in items:
                yield item


def _renumber(item: Frames | Scores | Sketch, plan: EditPlan, index: int, edge: Frames) -> Frames | Scores | Sketch:
    """Return an item of the model as one of frame `index`, which has the times of its edge picture."""
    if isinstance(item, Frames):
        return Frames(item.pixels, index, plan.rate, edge.times)
    return replace(item, frame=index)


def _report_edges(plan: EditPlan, field: str, edges: Decoder, count: int) -> list[Fact]:
    """Return facts about the edges that are known only after all of them have been read."""
    if count < plan.total:  # the frame count in the file was wrong
        return [Fact("frames_total", count), Fact("degraded", f"{field}: ended after {count - 1} edges")]
    return report_reading(field, edges.facts)


def _report_gate(plan: EditPlan, scores: Sequence[Scores]) -> list[Fact]:
    """Return facts about the tries of all frames, also those of earlier runs; none without a gate."""
    if plan.gate is None:
        return []
    report = GateReport(plan.gate)
    for each in scores:
        report.add(each)
    return report.list_facts()


def _make_plan(request: RollingEditRequest, style: Frames, edges: Decoder, known: Known) -> EditPlan:
    fields: dict[str, Any] = {name: getattr(request, name) for name in Editing.model_fields}
    edit = EditRequest(**fields, edge_filter=request.edges[2], debug=request.debug)
    rate = Fraction(str(request.fps)) if request.fps else edges.facts.rate or DEFAULT_RATE
    total = request.count_frames(edges.facts.frames)
    has_own_rate = request.fps is not None
    return EditPlan(
        edit=edit,
        style=style,
        seed=draw_seed(request.seed),
        total=total,
        rate=rate,
        has_own_rate=has_own_rate,
        start=request.edge_start,
        key=known.key,
        gate=request.gate,
    )
