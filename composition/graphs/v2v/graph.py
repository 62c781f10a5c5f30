"""V2V: a video → (its last frame, and sampled frames described by InternVL) → Wan → a video that continues it."""

from collections.abc import AsyncIterator
from fractions import Fraction
from math import ceil, floor

import numpy as np

from composition.graphs.calls import Models, Transport, opened, stop_everywhere, stream
from composition.graphs.fields import completed, select_fields
from composition.graphs.inputs import Media
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.v2v.request import V2VRequest
from composition.media.decode import MediaFacts
from composition.media.encode import resize_frames
from services.errors import InvalidParameter
from services.frames import MAX_RUN, Clip, Fact, Frames, Item, Text
from services.internvl.request import DescribeRequest
from services.roles import Describe, ImageToVideo
from services.wan.request import WanRequest


class V2V:
    """The graph: InternVL for the prompt where none is given, then Wan from the last frame."""

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._describer = models.describe
        self._animator = models.image_to_video
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: V2VRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the description as it is written and the video as it is made.

        Frames are numbered from 0 behind the clip, if `join` puts one there, and those that are known are left out.
        """
        request = completed(request, self._settings.defaults)
        if known.again:
            await stop_everywhere(self._describer, known.key, self._transport)
            await stop_everywhere(self._animator, known.key, self._transport)
        prompt = (request.prompt or "").strip() or str(known.facts.get("caption") or "")
        async with self._media.opened(request.input_video) as video:
            last = await video.read_last()
            shots = None if prompt else await video.sample(request.num_segments)
            facts = video.facts  # only now does it know of damage
        if request.join and facts.rate is None:
            raise InvalidParameter("join: a picture has no frame rate to join a video at", param="join")
        if facts.damaged:
            yield Fact("degraded", f"input_video: {facts.damaged}")
        if shots is not None:
            async for item in self._describe(request, shots, known.key):
                if isinstance(item, Fact):
                    prompt = str(item.value)
                yield item
        async for item in self._continue(request, prompt, last, facts, known):
            yield item

    async def _describe(self, request: V2VRequest, shots: Frames, key: str) -> AsyncIterator[Item]:
        """Yield the description piece by piece, and at its end whole, as the fact `caption`."""
        pieces: list[str] = []
        asked = DescribeRequest(prompt=request.describe_prompt)
        call = stream(self._describer, Describe[DescribeRequest].describe, asked, shots, key)
        async with opened(call, self._transport) as items:
            async for item in items:
                if isinstance(item, Text):
                    pieces.append(item.piece)
                yield item
        yield Fact("caption", "".join(pieces).strip())

    async def _continue(
        self, request: V2VRequest, prompt: str, last: Frames, facts: MediaFacts, known: Known
    ) -> AsyncIterator[Item]:
        joint = Joint(facts.width, facts.height, facts.rate) if request.join and facts.rate is not None else None
        if joint is None:
            yield Fact("frames_total", request.num_frames)
        else:
            yield Clip(request.input_video)
        start = known.frames if joint is None else 0
        asked = select_fields(WanRequest, request, prompt=prompt)
        animate = ImageToVideo[WanRequest].animate
        call = stream(self._animator, animate, asked, last, start=start, key=known.key)
        async with opened(call, self._transport) as items:
            async for item in items:
                if joint is None or not isinstance(item, Frames):
                    yield item
                    continue
                if item.first == 0:
                    yield Fact("frames_total", facts.frames + joint.count(request.num_frames, item.rate))
                for frames in joint.fitted(item):
                    yield frames


class Joint:
    """Fits a continuation to the clip it is joined to: the clip's size, and its rate by repeating or leaving out.

    Args:
        width, height: of the clip, in pixels.
        rate: of the clip, in frames per second.

    The continuation's frame 0 is the clip's last frame once more, so the clip's next frame shows what the continuation
    shows one frame's time after its beginning.
    """

    def __init__(self, width: int, height: int, rate: Fraction) -> None:
        self._width, self._height, self._rate = width, height, rate

    def count(self, num_frames: int, rate: Fraction) -> int:
        """How many frames at the clip's rate show the first `num_frames` of a continuation at `rate`."""
        return ceil(num_frames / rate * self._rate) - 1

    def fitted(self, frames: Frames) -> list[Frames]:
        """The runs at the clip's size and rate that show this run, numbered from the first behind the clip."""
        begin = self.count(frames.first, frames.rate) if frames.first else 0
        shown = range(begin, self.count(frames.stop, frames.rate))
        if not shown:
            return []
        sized = resize_frames(frames, self._width, self._height).pixels
        sources = [floor((j + 1) / self._rate * frames.rate) - frames.first for j in shown]
        return [
            Frames(np.ascontiguousarray(sized[sources[i : i + MAX_RUN]]), begin + i, self._rate)
            for i in range(0, len(sources), MAX_RUN)
        ]
