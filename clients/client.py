"""`Client` and `AsyncClient`: two thin shells over httpx. What they say and understand is in `wire`, how they go on
after a break in `flows`; the shells send, read, write and wait.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from os import PathLike
from pathlib import Path
from typing import Unpack

from clients import flows, wire
from clients.connection import AsyncConnection, Connection
from clients.disk import Landing
from clients.errors import ClientError
from clients.fields import ListOptions, VideoFields
from clients.flows import Backoff, OnBytes
from clients.objects import Deleted, Event, File, Model, Page, Video

_TIMEOUT_S = 300.0
"""An upload is decoded before it is answered."""


class Client:
    """The API, blocking.

    Args:
        base_url: the server's address, with or without `/v1`.
        api_key: where the server wants one.
        timeout_s: how long the server may be silent within one answer.
        backoff: how a broken event stream, wait or download is taken up again.

    Every method raises ServerUnreachable, ConnectionLost, ApiError and UnexpectedAnswer.
    """

    def __init__(
        self,
        base_url: str = wire.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        backoff: Backoff = Backoff(),  # noqa: B008 (frozen)
    ) -> None:
        self._connection = Connection(base_url, api_key, timeout_s)
        self.files = Files(self._connection)
        self.videos = Videos(self._connection, backoff)
        self.models = Models(self._connection)

    def health(self) -> None:
        """Return when the server is alive."""
        self._connection.send(wire.health())

    def close(self) -> None:
        self._connection.http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The API, for asyncio. See Client."""

    def __init__(
        self,
        base_url: str = wire.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        backoff: Backoff = Backoff(),  # noqa: B008 (frozen)
    ) -> None:
        self._connection = AsyncConnection(base_url, api_key, timeout_s)
        self.files = AsyncFiles(self._connection)
        self.videos = AsyncVideos(self._connection, backoff)
        self.models = AsyncModels(self._connection)

    async def health(self) -> None:
        """Return when the server is alive."""
        await self._connection.send(wire.health())

    async def close(self) -> None:
        await self._connection.http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Files:
    """`/v1/files`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def upload(
        self, path: str | PathLike[str], *, purpose: str = "user_data", on_progress: OnBytes | None = None
    ) -> File:
        """Send a file from this disk, a piece at a time. Raises OSError before anything is sent."""
        return self._connection.send(wire.upload_file(path, purpose), on_progress)

    def retrieve(self, file_id: str) -> File:
        return self._connection.send(wire.retrieve_file(file_id))

    def list(self, **options: Unpack[ListOptions]) -> Page[File]:
        return self._connection.send(wire.list_files(**options))

    def list_all(self, **options: Unpack[ListOptions]) -> Iterator[File]:
        """Yield the files of this page and of all behind it."""
        return self._connection.pages(wire.list_files(**options))

    def delete(self, file_id: str) -> Deleted:
        return self._connection.send(wire.delete_file(file_id))


class AsyncFiles:
    """`/v1/files`. See Files."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def upload(
        self, path: str | PathLike[str], *, purpose: str = "user_data", on_progress: OnBytes | None = None
    ) -> File:
        return await self._connection.send(wire.upload_file(path, purpose), on_progress)

    async def retrieve(self, file_id: str) -> File:
        return await self._connection.send(wire.retrieve_file(file_id))

    async def list(self, **options: Unpack[ListOptions]) -> Page[File]:
        return await self._connection.send(wire.list_files(**options))

    def list_all(self, **options: Unpack[ListOptions]) -> AsyncIterator[File]:
        return self._connection.pages(wire.list_files(**options))

    async def delete(self, file_id: str) -> Deleted:
        return await self._connection.send(wire.delete_file(file_id))


class Videos:
    """`/v1/videos`."""

    def __init__(self, connection: Connection, backoff: Backoff) -> None:
        self._connection = connection
        self._backoff = backoff

    def create(self, *, model: str, on_progress: OnBytes | None = None, **fields: Unpack[VideoFields]) -> Video:
        """Order a video. `model` is `v2v` or `wan-i2v`; a path object as medium is sent along."""
        return self._connection.send(wire.create_video(model, fields), on_progress)

    def retrieve(self, video_id: str) -> Video:
        return self._connection.send(wire.retrieve_video(video_id))

    def list(self, **options: Unpack[ListOptions]) -> Page[Video]:
        return self._connection.send(wire.list_videos(**options))

    def list_all(self, **options: Unpack[ListOptions]) -> Iterator[Video]:
        """Yield the videos of this page and of all behind it."""
        return self._connection.pages(wire.list_videos(**options))

    def delete(self, video_id: str) -> Deleted:
        """Delete a video; a job that runs is stopped."""
        return self._connection.send(wire.delete_video(video_id))

    def cancel(self, video_id: str) -> Video:
        """Stop a job and keep what there is of it."""
        return self._connection.send(wire.cancel_video(video_id))

    def events(self, video_id: str, *, after: int | None = None) -> Iterator[Event]:
        """Yield a job's events from its beginning, or behind the event numbered `after`, until the job has ended.

        A connection that breaks is taken up again where it broke. A failed job ends the iteration like a completed
        one: the last event says which.
        """
        feed = flows.EventFeed(video_id, after, self._backoff)
        for chunk in self._connection.chunks(feed):
            yield from feed.read(chunk)

    def wait(self, video_id: str, *, timeout_s: float | None = None) -> Video:
        """Return the video when it is completed. Raises JobFailed, and WaitTimedOut after `timeout_s`."""
        polling = flows.Polling(video_id, timeout_s, self._backoff)
        while polling.result is None:
            try:
                delay_s = polling.heard(self._connection.send(polling.call))
            except ClientError as error:
                delay_s = polling.failed(error)
            time.sleep(delay_s)
        return polling.result

    def stream_content(self, video_id: str, *, variant: str | None = None) -> Iterator[bytes]:
        """Yield a result's bytes; while the job runs, what there is so far and then the rest as it is made.

        Raises ConnectionLost in the middle when the job fails.
        """
        return self._connection.stream(wire.content(video_id, variant, live=True))

    def download(
        self, video_id: str, to: str | PathLike[str], *, variant: str | None = None, on_progress: OnBytes | None = None
    ) -> Path:
        """Wait for the job and put its result into the file `to`, which appears when it is whole.

        A connection that breaks is taken up again where it broke. Raises JobFailed and OSError too.
        """
        self.wait(video_id)
        download = flows.Download(video_id, variant, self._backoff, on_progress)
        with Landing(Path(to)) as landing:
            for piece in self._connection.chunks(download):
                landing.write(piece, download.received)
                download.took(len(piece))
        return Path(to)


class AsyncVideos:
    """`/v1/videos`. See Videos."""

    def __init__(self, connection: AsyncConnection, backoff: Backoff) -> None:
        self._connection = connection
        self._backoff = backoff

    async def create(self, *, model: str, on_progress: OnBytes | None = None, **fields: Unpack[VideoFields]) -> Video:
        return await self._connection.send(wire.create_video(model, fields), on_progress)

    async def retrieve(self, video_id: str) -> Video:
        return await self._connection.send(wire.retrieve_video(video_id))

    async def list(self, **options: Unpack[ListOptions]) -> Page[Video]:
        return await self._connection.send(wire.list_videos(**options))

    def list_all(self, **options: Unpack[ListOptions]) -> AsyncIterator[Video]:
        return self._connection.pages(wire.list_videos(**options))

    async def delete(self, video_id: str) -> Deleted:
        return await self._connection.send(wire.delete_video(video_id))

    async def cancel(self, video_id: str) -> Video:
        return await self._connection.send(wire.cancel_video(video_id))

    async def events(self, video_id: str, *, after: int | None = None) -> AsyncGenerator[Event]:
        """See Videos.events. Close it (`contextlib.aclosing`) where you leave it before its end."""
        feed = flows.EventFeed(video_id, after, self._backoff)
        async with aclosing(self._connection.chunks(feed)) as chunks:
            async for chunk in chunks:
                for event in feed.read(chunk):
                    yield event

    async def wait(self, video_id: str, *, timeout_s: float | None = None) -> Video:
        polling = flows.Polling(video_id, timeout_s, self._backoff)
        while polling.result is None:
            try:
                delay_s = polling.heard(await self._connection.send(polling.call))
            except ClientError as error:
                delay_s = polling.failed(error)
            await asyncio.sleep(delay_s)
        return polling.result

    def stream_content(self, video_id: str, *, variant: str | None = None) -> AsyncGenerator[bytes]:
        """See Videos.stream_content. Close it (`contextlib.aclosing`) where you leave it before its end."""
        return self._connection.stream(wire.content(video_id, variant, live=True))

    async def download(
        self, video_id: str, to: str | PathLike[str], *, variant: str | None = None, on_progress: OnBytes | None = None
    ) -> Path:
        await self.wait(video_id)
        download = flows.Download(video_id, variant, self._backoff, on_progress)
        with Landing(Path(to)) as landing:
            async with aclosing(self._connection.chunks(download)) as chunks:
                async for piece in chunks:
                    await asyncio.to_thread(landing.write, piece, download.received)
                    download.took(len(piece))
        return Path(to)


class Models:
    """`/v1/models`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Page[Model]:
        return self._connection.send(wire.list_models())


class AsyncModels:
    """`/v1/models`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Page[Model]:
        return await self._connection.send(wire.list_models())
