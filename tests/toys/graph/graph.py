"""How the graph `there-and-back` runs."""

from collections.abc import AsyncIterator


from composition.graphs.calls import Models, Transport, open_stream, stop_everywhere, stream
from composition.graphs.fields import complete_request
from composition.graphs.inputs import Media
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.there_and_back.request import ThereAndBackRequest
from services.frames import Fact, Frames, Item
from services.roles import ImageToVideo
from services.toy.request import ToyRequest


class ThereAndBack:
    """The graph."""

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._model = models.image_to_video
        self._settings = settings
        self._transport = transport
        self._media = Media(settings)

    async def run(self, request: ThereAndBackRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield the model's frames, and then the same frames from the last to the first."""
        request = complete_request(request, self._settings.defaults)
        if known.is_retry:
            await stop_everywhere(self._model, known.key, self._transport)
        image = await self._media.read_picture(request.image)
        once = 2 * request.animate.num_frames
        yield Fact("frames_total", once * request.turns)
        frames: list[Frames] = []
        call = stream(self._model, ImageToVideo[ToyRequest].animate, request.animate, image, key=known.key)
        async with open_stream(call, self._transport) as items:
            async for item in items:
                if isinstance(item, Frames):
                    frames.append(item)
                else:
                    yield item
        for index in range(known.frames, once * request.turns):
            place = index % once
            frame = frames[min(place, once - 1 - place)]
            yield Frames(frame.pixels, index, frame.rate)
