"""`/v1/images`, blocking and for asyncio."""

import json
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, closing
from typing import Unpack

from pydantic import ValidationError

from reelgraph import wire
from reelgraph.connection import AsyncConnection, Connection
from reelgraph.errors import ConnectionLost, UnexpectedAnswer
from reelgraph.fields import GenerationFields, ImageEditFields, ImageGenerationFields
from reelgraph.flows import OnBytes
from reelgraph.objects import IMAGE_EVENTS, CompletedImage, ImageEvent, ImagesResponse
from reelgraph.sse import Decoder, Message


class Images:
    """`/v1/images`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def generate(self, *, on_progress: OnBytes | None = None, **fields: Unpack[GenerationFields]) -> ImagesResponse:
        """Paint pictures and wait for them; nothing is stored. Raises OSError before anything is sent.

        Args:
            on_progress: told how much has been sent.
            fields: see GenerationFields.
        """
        return self._connection.send(wire.generate_image(fields), on_progress)

    def stream_generate(self, **fields: Unpack[ImageGenerationFields]) -> Generator[ImageEvent]:
        """Paint pictures and yield what is told of them, each picture as soon as it is there.

        Closing the stream stops the work. Raises ConnectionLost where it ends before the last picture.
        """
        story = _Story()
        with closing(self._connection.stream(wire.stream_image(fields))) as chunks:
            for chunk in chunks:
                yield from story.read(chunk)
        story.closed()

    def edit(self, *, on_progress: OnBytes | None = None, **fields: Unpack[ImageEditFields]) -> ImagesResponse:
        """Edit a picture and wait for it; nothing is stored. Raises OSError before anything is sent.

        Args:
            on_progress: told how much has been sent.
            fields: see ImageEditFields. `image` is a picture on this disk; of two, the first is the edges along which
                the second is edited.
        """
        return self._connection.send(wire.edit_image(fields), on_progress)


class AsyncImages:
    """`/v1/images`. See Images."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def generate(
        self, *, on_progress: OnBytes | None = None, **fields: Unpack[GenerationFields]
    ) -> ImagesResponse:
        return await self._connection.send(wire.generate_image(fields), on_progress)

    async def stream_generate(self, **fields: Unpack[ImageGenerationFields]) -> AsyncGenerator[ImageEvent]:
        story = _Story()
        async with aclosing(self._connection.stream(wire.stream_image(fields))) as chunks:
            async for chunk in chunks:
                for event in story.read(chunk):
                    yield event
        story.closed()

    async def edit(self, *, on_progress: OnBytes | None = None, **fields: Unpack[ImageEditFields]) -> ImagesResponse:
        return await self._connection.send(wire.edit_image(fields), on_progress)


class _Story:
    """What a stream of pictures tells. It cannot be taken up again: whoever leaves has the work stopped."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._over = False

    def read(self, chunk: bytes) -> Iterator[ImageEvent]:
        """Yield the events that are whole. Raises ApiError where one tells of an error, and UnexpectedAnswer."""
        for message in self._decoder.feed(chunk):
            event = _event(message)
            if event is not None:
                self._over = isinstance(event, CompletedImage) and event.index + 1 >= event.n
                yield event

    def closed(self) -> None:
        if not self._over:
            raise ConnectionLost("the stream ended before the last picture")


def _event(message: Message) -> ImageEvent | None:
    """None for a kind of event that is newer than this client."""
    try:
        told = json.loads(message.data)
        status = int(told.get("status", 500)) if message.event == "error" else None
        kind = IMAGE_EVENTS.get(message.event)
        event = kind.model_validate(told) if kind else None
    except (ValueError, TypeError, AttributeError, ValidationError) as error:
        raise UnexpectedAnswer(f"an event of the stream cannot be read: {error}") from error
    if status is not None:
        raise wire.error_of(wire.Answer(status, {}, message.data.encode()))
    return event
