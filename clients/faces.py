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
        """Find the largest face in a picture; nothing is stored. Raises OSError before anything is sent.

        Args:
            image: a file id or a `data:` URL as str; a path object is a file on this disk.
            model: the id of a served model that finds faces; the server chooses where it is not given.
            on_progress: told how much of the file has been sent.
        """
        return self._connection.send(wire.find_face(image, model), on_progress)


class AsyncFaces:
    """`/v1/faces`. See Faces."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, image: Media, *, model: str | None = None, on_progress: OnBytes | None = None) -> Face:
        return await self._connection.send(wire.find_face(image, model), on_progress)
