"""`/v1/images`, blocking and for asyncio."""

from collections.abc import Sequence
from os import PathLike
from typing import Unpack

from clients import wire
from clients.connection import AsyncConnection, Connection
from clients.fields import ImageFields
from clients.flows import OnBytes
from clients.objects import ImagesResponse


class Images:
    """`/v1/images`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def edit(
        self,
        *,
        image: str | PathLike[str] | Sequence[str | PathLike[str]],
        on_progress: OnBytes | None = None,
        **fields: Unpack[ImageFields],
    ) -> ImagesResponse:
        """Edit a picture and wait for it; nothing is stored. Raises OSError before anything is sent.

        Args:
            image: a picture on this disk; of two, the first is the edges along which the second is edited.
            on_progress: told how much has been sent.
            fields: see ImageFields.
        """
        return self._connection.send(wire.edit_image(image, fields), on_progress)


class AsyncImages:
    """`/v1/images`. See Images."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def edit(
        self,
        *,
        image: str | PathLike[str] | Sequence[str | PathLike[str]],
        on_progress: OnBytes | None = None,
        **fields: Unpack[ImageFields],
    ) -> ImagesResponse:
        return await self._connection.send(wire.edit_image(image, fields), on_progress)
