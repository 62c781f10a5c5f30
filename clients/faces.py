"""`/v1/faces`, blocking and for asyncio."""

from reelgraph import wire
from reelgraph.about import Media
from reelgraph.connection import AsyncConnection, Connection
from reelgraph.flows import OnBytes
from reelgraph.objects import Face


class Faces:
    """`/v1/faces`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, image: Media, *, model: str | None = None, on_progress: OnBytes | None = None) -> Face:
        """Find the largest face in a picture. The server stores nothing.

        Args:
            image: a file id or a `data:` URL as a string; a path object is a local file.
            model: id of a served model that finds faces; by default the server chooses one.
            on_progress: called while the file is sent.

        Raises OSError if the file cannot be read, before anything is sent.
        """
        return self._connection.send(wire.find_face(image, model), on_progress)


class AsyncFaces:
    """`/v1/faces`. See Faces."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, image: Media, *, model: str | None = None, on_progress: OnBytes | None = None) -> Face:
        return await self._connection.send(wire.find_face(image, model), on_progress)
