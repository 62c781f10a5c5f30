"""`/v1/content_provenance_checks`, blocking and for asyncio."""

from reelgraph import wire
from reelgraph.about import Media
from reelgraph.connection import AsyncConnection, Connection
from reelgraph.flows import OnBytes
from reelgraph.objects import ContentProvenanceCheck


class ContentProvenanceChecks:
    """`/v1/content_provenance_checks`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, file: Media, *, on_progress: OnBytes | None = None) -> ContentProvenanceCheck:
        """Read the marks of a file of any kind. The server stores nothing.

        Args:
            file: a file id or a `data:` URL as a string; a path object is a local file.
            on_progress: called while the file is sent.

        Raises OSError if the file cannot be read, before anything is sent.
        """
        return self._connection.send(wire.check_provenance(file), on_progress)


class AsyncContentProvenanceChecks:
    """`/v1/content_provenance_checks`. See ContentProvenanceChecks."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, file: Media, *, on_progress: OnBytes | None = None) -> ContentProvenanceCheck:
        return await self._connection.send(wire.check_provenance(file), on_progress)
