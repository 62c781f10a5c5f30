"""`/v1/videos`, blocking and for asyncio."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from os import PathLike
from pathlib import Path
from typing import Unpack, cast

from reelgraph import flows, wire
from reelgraph.connection import AsyncConnection, Connection
from reelgraph.create import CreateVideo, CreateVideoLater
from reelgraph.disk import AtomicFile
from reelgraph.errors import ClientError
from reelgraph.fields import ContentOptions, ListOptions, VideoFields
from reelgraph.flows import Backoff, OnBytes
from reelgraph.objects import Deleted, Event, Page, Video


class Videos:
    """`/v1/videos`."""

    def __init__(self, connection: Connection, backoff: Backoff) -> None:
        self._connection = connection
        self._backoff = backoff

    @property
    def create(self) -> CreateVideo:
        """Create a job that makes a video or a picture. A path object in a media field is sent with the request.

        Args:
            model: a graph, `v2v`, `rolling-edit`, `full-pipeline`, `storyboard`; or the id of a served model that runs
                alone, e.g. `wan`, `text-to-video`, or `flux` for a picture. `models.list` returns all of them.
            on_progress: called while the request is sent.
            fields: the request's fields; `reelgraph.fields` has a TypedDict for each graph and kind of model. A type
                checker checks them if `model` is a literal.

        Raises:
            OSError: a file cannot be read; raised before anything is sent.
            ValueError: a list has both paths and ids.
        """
        return cast(
            "CreateVideo", self._create
        )  # `_create` accepts all fields, which a type checker does not take for the overloads

    def _create(self, *, model: str, on_progress: OnBytes | None = None, **given: Unpack[VideoFields]) -> Video:
        return self._connection.send(wire.create_video(model, given), on_progress)

    def retrieve(self, video_id: str) -> Video:
        return self._connection.send(wire.retrieve_video(video_id))

    def list(self, **options: Unpack[ListOptions]) -> Page[Video]:
        return self._connection.send(wire.list_videos(**options))

    def list_all(self, **options: Unpack[ListOptions]) -> Iterator[Video]:
        """Yield the videos of this page and of all following pages."""
        return self._connection.list_entries(wire.list_videos(**options))

    def delete(self, video_id: str) -> Deleted:
        """Delete a job with its results; a running job is stopped first."""
        return self._connection.send(wire.delete_video(video_id))

    def cancel(self, video_id: str) -> Video:
        """Stop a job and keep its results so far."""
        return self._connection.send(wire.cancel_video(video_id))

    def events(self, video_id: str, *, after: int | None = None) -> Iterator[Event]:
        """Yield a job's events until the job has ended, from the first one, or from the one after number `after`.

        A broken connection is resumed without loss. A failed job ends the iteration like a completed one; the last
        event has the status.
        """
        feed = flows.EventFeed(video_id, after, self._backoff)
        for chunk in self._connection.read_flow(feed):
            yield from feed.read(chunk)

    def wait(self, video_id: str, *, timeout_s: float | None = None) -> Video:
        """Wait until a job has completed and return the video. Raises JobFailed; WaitTimedOut after `timeout_s`."""
        polling = flows.Polling(video_id, timeout_s, self._backoff)
        while polling.result is None:
            try:
                delay_s = polling.handle_response(self._connection.send(polling.call))
            except ClientError as error:
                delay_s = polling.handle_error(error)
            time.sleep(delay_s)
        return polling.result

    def stream_content(self, video_id: str, **options: Unpack[ContentOptions]) -> Iterator[bytes]:
        """Yield the bytes of a result; while the job runs, the bytes that exist and then the rest as it is made.

        The default variant is the job's main variant, as in `download`. Raises ConnectionLost if the job fails.
        """
        return self._connection.stream(wire.get_content(video_id, options, live=True))

    def download(
        self,
        video_id: str,
        to: str | PathLike[str],
        *,
        on_progress: OnBytes | None = None,
        **options: Unpack[ContentOptions],
    ) -> Path:
        """Wait for the job and download its result into the file `to`, which appears when it is complete.

        A broken connection is resumed where it broke. Also raises JobFailed and OSError.
        """
        self.wait(video_id)
        download = flows.Download(video_id, options, self._backoff, on_progress)
        with AtomicFile(Path(to)) as file:
            for chunk in self._connection.read_flow(download):
                file.write(chunk, download.received)
                download.handle_bytes(len(chunk))
        return Path(to)


class AsyncVideos:
    """`/v1/videos`. See Videos."""

    def __init__(self, connection: AsyncConnection, backoff: Backoff) -> None:
        self._connection = connection
        self._backoff = backoff

    @property
    def create(self) -> CreateVideoLater:
        """See Videos.create."""
        return cast("CreateVideoLater", self._create)

    async def _create(self, *, model: str, on_progress: OnBytes | None = None, **given: Unpack[VideoFields]) -> Video:
        return await self._connection.send(wire.create_video(model, given), on_progress)

    async def retrieve(self, video_id: str) -> Video:
        return await self._connection.send(wire.retrieve_video(video_id))

    async def list(self, **options: Unpack[ListOptions]) -> Page[Video]:
        return await self._connection.send(wire.list_videos(**options))

    def list_all(self, **options: Unpack[ListOptions]) -> AsyncIterator[Video]:
        return self._connection.list_entries(wire.list_videos(**options))

    async def delete(self, video_id: str) -> Deleted:
        return await self._connection.send(wire.delete_video(video_id))

    async def cancel(self, video_id: str) -> Video:
        return await self._connection.send(wire.cancel_video(video_id))

    async def events(self, video_id: str, *, after: int | None = None) -> AsyncGenerator[Event]:
        """See Videos.events. Use `contextlib.aclosing` if you leave it before its end."""
        feed = flows.EventFeed(video_id, after, self._backoff)
        async with aclosing(self._connection.read_flow(feed)) as chunks:
            async for chunk in chunks:
                for event in feed.read(chunk):
                    yield event

    async def wait(self, video_id: str, *, timeout_s: float | None = None) -> Video:
        polling = flows.Polling(video_id, timeout_s, self._backoff)
        while polling.result is None:
            try:
                delay_s = polling.handle_response(await self._connection.send(polling.call))
            except ClientError as error:
                delay_s = polling.handle_error(error)
            await asyncio.sleep(delay_s)
        return polling.result

    def stream_content(self, video_id: str, **options: Unpack[ContentOptions]) -> AsyncGenerator[bytes]:
        """See Videos.stream_content. Use `contextlib.aclosing` if you leave it before its end."""
        return self._connection.stream(wire.get_content(video_id, options, live=True))

    async def download(
        self,
        video_id: str,
        to: str | PathLike[str],
        *,
        on_progress: OnBytes | None = None,
        **options: Unpack[ContentOptions],
    ) -> Path:
        await self.wait(video_id)
        download = flows.Download(video_id, options, self._backoff, on_progress)
        with AtomicFile(Path(to)) as file:
            async with aclosing(self._connection.read_flow(download)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk, download.received)
                    download.handle_bytes(len(chunk))
        return Path(to)
