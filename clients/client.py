"""`Client` and `AsyncClient`: thin layers over httpx. `wire` builds requests and parses responses, `flows` resumes
broken connections.
"""

from collections.abc import AsyncIterator, Iterator
from os import PathLike
from typing import Unpack

from reelgraph import wire
from reelgraph.connection import AsyncConnection, Connection
from reelgraph.faces import AsyncFaces, Faces
from reelgraph.fields import ListOptions
from reelgraph.flows import Backoff, OnBytes
from reelgraph.images import AsyncImages, Images
from reelgraph.objects import Deleted, File, Model, Page
from reelgraph.provenance import AsyncContentProvenanceChecks, ContentProvenanceChecks
from reelgraph.videos import AsyncVideos, Videos

_TIMEOUT_S = 300.0
"""Default read timeout, in seconds: the server decodes an upload before it responds."""


class Client:
    """A blocking client of the API.

    Args:
        base_url: the server's URL, with or without `/v1`.
        api_key: an API key, if the server requires one.
        timeout_s: maximum time without data from the server during a response, in seconds.
        backoff: retries of a broken event stream, wait or download.

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
        self.images = Images(self._connection)
        self.faces = Faces(self._connection)
        self.content_provenance_checks = ContentProvenanceChecks(self._connection)
        self.models = Models(self._connection)

    def health(self) -> None:
        """Check that the server is running. Raises ServerUnreachable or ApiError if it is not."""
        self._connection.send(wire.check_health())

    def close(self) -> None:
        self._connection.http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """A client of the API for asyncio. See Client."""

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
        self.images = AsyncImages(self._connection)
        self.faces = AsyncFaces(self._connection)
        self.content_provenance_checks = AsyncContentProvenanceChecks(self._connection)
        self.models = AsyncModels(self._connection)

    async def health(self) -> None:
        """Check that the server is running. Raises ServerUnreachable or ApiError if it is not."""
        await self._connection.send(wire.check_health())

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
        """Upload a local file, a chunk at a time, or the files in a folder as a zip archive of pictures.

        Raises OSError if a file cannot be read, before anything is sent.
        """
        return self._connection.send(wire.upload_file(path, purpose), on_progress)

    def retrieve(self, file_id: str) -> File:
        return self._connection.send(wire.retrieve_file(file_id))

    def list(self, **options: Unpack[ListOptions]) -> Page[File]:
        return self._connection.send(wire.list_files(**options))

    def list_all(self, **options: Unpack[ListOptions]) -> Iterator[File]:
        """Yield the files of this page and of all following pages."""
        return self._connection.list_entries(wire.list_files(**options))

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
        return self._connection.list_entries(wire.list_files(**options))

    async def delete(self, file_id: str) -> Deleted:
        return await self._connection.send(wire.delete_file(file_id))


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
