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
from reelgraph.disk import Landing
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
        """Order a video, or a picture where the job is for one. A path object as medium is sent along.

        Args:
            model: a graph, `v2v`, `rolling-edit`, `full-pipeline`, `storyboard`; or the id of a served model for a job
                of that model alone, e.g. `wan`, `text-to-video`, or `flux` for a picture. `models.list` has them all.
            on_progress: told how much has been sent.
            fields: as `fields` has them for each graph and kind of model; a type checker knows which of them a name
                takes where that is written out, and the server always.

        Raises OSError before anything is sent, and ValueError for a list of both paths and ids.
        """
        return cast("CreateVideo", self._create)  # no function of all fields is one of some to a type checker

    def _create(self, *, model: str, on_progress: OnBytes | None = None, **given: Unpack[VideoFields]) -> Video:
        return self._connection.send(wire.create_video(model, given), on_progress)

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

    def stream_content(self, video_id: str, **options: Unpack[ContentOptions]) -> Iterator[bytes]:
        """Yield a result's bytes; while the job runs, what there is so far and then the rest as it is made.

        Without a variant it is what the job is for, the video's `main`; so it is for `download`. Raises ConnectionLost
        in the middle when the job fails.
        """
        return self._connection.stream(wire.content(video_id, options, live=True))

    def download(
        self,
        video_id: str,
        to: str | PathLike[str],
        *,
        on_progress: OnBytes | None = None,
        **options: Unpack[ContentOptions],
    ) -> Path:
        """Wait for the job and put its result into the file `to`, which appears when it is whole.

        A connection that breaks is taken up again where it broke. Raises JobFailed and OSError too.
        """
        self.wait(video_id)
        download = flows.Download(video_id, options, self._backoff, on_progress)
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

    def stream_content(self, video_id: str, **options: Unpack[ContentOptions]) -> AsyncGenerator[bytes]:
        """See Videos.stream_content. Close it (`contextlib.aclosing`) where you leave it before its end."""
        return self._connection.stream(wire.content(video_id, options, live=True))

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
        with Landing(Path(to)) as landing:
            async with aclosing(self._connection.chunks(download)) as chunks:
                async for piece in chunks:
                    await asyncio.to_thread(landing.write, piece, download.received)
                    download.took(len(piece))
        return Path(to)
