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
        """Generate pictures and wait for them. The server stores nothing.

        Args:
            on_progress: called while the request is sent.
            fields: see GenerationFields.

        Raises OSError if a file cannot be read, before anything is sent.
        """
        return self._connection.send(wire.generate_image(fields), on_progress)

    def stream_generate(self, **fields: Unpack[ImageGenerationFields]) -> Generator[ImageEvent]:
        """Generate pictures and yield their events, each picture as soon as it is finished.

        Closing the generator stops the model. Raises ConnectionLost if the stream ends before the last picture.
        """
        stream = _ImageStream()
        with closing(self._connection.stream(wire.stream_image(fields))) as chunks:
            for chunk in chunks:
                yield from stream.read(chunk)
        stream.check_complete()

    def edit(self, *, on_progress: OnBytes | None = None, **fields: Unpack[ImageEditFields]) -> ImagesResponse:
        """Edit a picture and wait for the result. The server stores nothing.

        Args:
            on_progress: called while the request is sent.
            fields: see ImageEditFields. `image` is a local file, a file id or a `data:` URL, or a list of these: the
                first is edited, and the prompt may refer to the others. `edges` has the edges to follow. To send a
                local file whose name begins with `file_`, give a path object.

        Raises:
            OSError: a file cannot be read; raised before anything is sent.
            ValueError: `image` has both local files and ids.
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
        stream = _ImageStream()
        async with aclosing(self._connection.stream(wire.stream_image(fields))) as chunks:
            async for chunk in chunks:
                for event in stream.read(chunk):
                    yield event
        stream.check_complete()

    async def edit(self, *, on_progress: OnBytes | None = None, **fields: Unpack[ImageEditFields]) -> ImagesResponse:
        return await self._connection.send(wire.edit_image(fields), on_progress)


class _ImageStream:
    """Parses a stream of pictures. It cannot be resumed, because the server stops the model at a disconnect."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._is_complete = False

    def read(self, chunk: bytes) -> Iterator[ImageEvent]:
        """Yield the complete events in a chunk. Raises ApiError for an error event, and UnexpectedAnswer."""
        for message in self._decoder.feed(chunk):
            event = _parse_event(message)
            if event is not None:
                self._is_complete = isinstance(event, CompletedImage) and event.index + 1 >= event.n
                yield event

    def check_complete(self) -> None:
        """Raise ConnectionLost if the last picture was not received."""
        if not self._is_complete:
            raise ConnectionLost("the stream ended before the last picture")


def _parse_event(message: Message) -> ImageEvent | None:
    """Return the event, or None for an unknown kind of event. Raises ApiError and UnexpectedAnswer."""
    try:
        data = json.loads(message.data)
        status = int(data.get("status", 500)) if message.event == "error" else None
        kind = IMAGE_EVENTS.get(message.event)
        event = kind.model_validate(data) if kind else None
    except (ValueError, TypeError, AttributeError, ValidationError) as error:
        raise UnexpectedAnswer(f"an event of the stream cannot be parsed: {error}") from error
    if status is not None:
        raise wire.parse_error(wire.Response(status, {}, message.data.encode()))
    return event
