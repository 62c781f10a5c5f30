"""V2V: describe a video, and generate its continuation from its last frame."""

from collections.abc import AsyncIterator
from fractions import Fraction
from math import ceil, floor

import numpy as np

from composition.graphs.calls import Models, Transport, open_stream, stop_everywhere, stream
from composition.graphs.fields import complete_request, select_fields
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
    """The graph. The describing model writes the prompt if the request has none."""

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._describer = models.describe
        self._animator = models.image_to_video
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: V2VRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the pieces of the description, then the frames of the video.

        Frames are numbered from 0; with `join`, frame 0 is the one after the clip. Known frames are not sent.
        """
        request = complete_request(request, self._settings.defaults)
        if known.is_retry:
            await stop_everywhere(self._describer, known.key, self._transport)
            await stop_everywhere(self._animator, known.key, self._transport)
        prompt = (request.prompt or "").strip() or str(known.facts.get("caption") or "")
        async with self._media.open(request.input_video) as video:
            last = await video.read_last()
            samples = None if prompt else await video.sample(request.num_segments)
            facts = video.facts  # complete only after reading: damage is found on the way
        if request.join and facts.rate is None:
            raise InvalidParameter("join: a picture has no frame rate; give a video to join to", param="join")
        if facts.damaged:
            yield Fact("degraded", f"input_video: {facts.damaged}")
        if samples is not None:
            async for item in self._describe(request, samples, known.key):
                if isinstance(item, Fact):
                    prompt = str(item.value)
                yield item
        async for item in self._continue(request, prompt, last, facts, known):
            yield item

    async def _describe(self, request: V2VRequest, samples: Frames, key: str) -> AsyncIterator[Item]:
        """Yield the description piece by piece, and at the end the whole of it as the fact `caption`."""
        pieces: list[str] = []
        question = DescribeRequest(prompt=request.describe_prompt)
        call = stream(self._describer, Describe[DescribeRequest].describe, question, samples, key)
        async with open_stream(call, self._transport) as items:
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
        animation = select_fields(WanRequest, request, prompt=prompt)
        animate = ImageToVideo[WanRequest].animate
        call = stream(self._animator, animate, animation, last, start=start, key=known.key)
        async with open_stream(call, self._transport) as items:
            async for item in items:
                if joint is None or not isinstance(item, Frames):
                    yield item
                    continue
                if item.first == 0:
                    yield Fact("frames_total", facts.frames + joint.count(request.num_frames, item.rate))
                for frames in joint.fit(item):
                    yield frames


class Joint:
    """Converts a continuation to the size and frame rate of the clip to which it is joined.

    Frames are repeated or dropped to reach the rate. Frame 0 of the continuation repeats the clip's last frame, so the
    first frame after the clip shows the continuation at one frame duration after its start.

    Args:
        width, height: size of the clip in pixels.
        rate: of the clip, in frames per second.
    """

    def __init__(self, width: int, height: int, rate: Fraction) -> None:
        self._width, self._height, self._rate = width, height, rate

    def count(self, num_frames: int, rate: Fraction) -> int:
        """Return how many frames at the clip's rate show the first `num_frames` frames of a continuation at `rate`."""
        return ceil(num_frames / rate * self._rate) - 1

    def fit(self, frames: Frames) -> list[Frames]:
        """Return the frames at the clip's size and rate that show this run; 0 is the first frame after the clip."""
        start = self.count(frames.first, frames.rate) if frames.first else 0
        shown = range(start, self.count(frames.stop, frames.rate))
        if not shown:
            return []
        sized = resize_frames(frames, self._width, self._height).pixels
        sources = [floor((j + 1) / self._rate * frames.rate) - frames.first for j in shown]
        return [
            Frames(np.ascontiguousarray(sized[sources[i : i + MAX_RUN]]), start + i, self._rate)
            for i in range(0, len(sources), MAX_RUN)
        ]
