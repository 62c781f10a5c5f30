"""V2V: describe a video, and generate its continuation from its last frame."""

from collections.abc import AsyncIterator
from fractions import Fraction

from composition.graphs.calls import Models, Transport, open_stream, stop_everywhere, stream
from composition.graphs.fields import complete_request, select_fields
from composition.graphs.inputs import Media, report_reading
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.v2v.request import V2VRequest
from composition.graphs.v2v.seam import ColourMatch, restore_shape
from composition.media.decode import MediaFacts
from services.errors import InvalidParameter
from services.frames import Clip, Fact, Frames, Item, Sound, Text
from services.internvl.request import DescribeRequest
from services.limits import PictureFit
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
        async with self._media.open(request.input_video, known.owner) as video:
            last = await video.read_last()
            samples = None if prompt else await video.sample(request.num_segments)
            facts = video.facts  # complete only after reading: damage is found on the way
        if request.join and facts.rate is None:
            raise InvalidParameter("join: a picture has no frame rate; give a video to join to", param="join")
        for fact in report_reading("input_video", facts):
            yield fact
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
        yield Fact("frames_total", request.num_frames + (facts.frames - 1 if request.join else 0))
        if request.join:
            yield Clip(request.input_video)
        match = ColourMatch(last, request.fit) if request.match_colour else None
        if facts.sound is not None and request.join:
            yield Sound(request.input_video, seconds=Fraction(facts.duration_s))
        elif facts.sound is not None:
            yield Fact("sound", "left out: the result shows only the continuation")
        start = 0 if request.join or match else known.frames  # colours are compared at frame 0
        animation = select_fields(WanRequest, request, prompt=prompt)
        animate = ImageToVideo[WanRequest].animate
        animator = self._animator.prefer(animation.lora_set)
        call = stream(animator, animate, animation, last, start=start, key=known.key)
        async with open_stream(call, self._transport) as items:
            async for item in items:
                if not isinstance(item, Frames):
                    yield item
                    continue
                frames = item if match is None else match.apply(item)
                if not request.join:
                    if frames.stop > known.frames:
                        yield frames
                elif (joined := join_frames(frames, facts.width, facts.height, request.fit)) is not None:
                    yield joined


def join_frames(frames: Frames, width: int, height: int, fit: PictureFit) -> Frames | None:
    """Return the frames of a continuation as those after the clip, or None if there are none.

    The first frame of a continuation repeats the clip's last frame and is left out.

    Args:
        frames: a run of the continuation.
        width, height: size of the clip in pixels.
        fit: how the clip's last frame was fitted into the frames.
    """
    fresh = frames.pixels[max(0, 1 - frames.first) :]
    if not len(fresh):
        return None
    return restore_shape(Frames(fresh, max(0, frames.first - 1), frames.rate), width, height, fit)
