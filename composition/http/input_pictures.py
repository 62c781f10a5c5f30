"""The pictures of a request that is answered without a job."""

from contextlib import AsyncExitStack

from composition.http.bodies import ONLY_ONE_MEDIA_VALUE, MediaValue
from composition.http.uploads import DecodedPicture, Uploads
from composition.jobs.provenance import EDITED
from composition.media.marks.provenance import Ingredient
from services.errors import InvalidParameter


class InputPictures:
    """Decodes the pictures of a request, and keeps their files until the results have been marked.

    Args:
        uploads: decodes the pictures.
        owner: owner of the uploads that the request names.
        files: what the files are closed with.
    """

    def __init__(self, uploads: Uploads, owner: str, files: AsyncExitStack) -> None:
        self._uploads = uploads
        self._owner = owner
        self._files = files
        self.ingredients: list[Ingredient] = []
        """The pictures that were read, in order."""

    async def read(self, value: MediaValue, field: str, background: str | None = None) -> DecodedPicture:
        """Decode a picture.

        Args:
            value: a form part, a `data:` URL or the id of an upload.
            field: the request field.
            background: what a transparent picture is composited on; by default the configured colour.

        Raises:
            InvalidParameter: it is a list or no picture.
            NotFound: the owner has no file with this id.
            UndecodableMedia, LimitExceeded, ServiceBusy: as `Uploads.decode_path`.
        """
        if isinstance(value, list):
            raise InvalidParameter(f"{field}: {ONLY_ONE_MEDIA_VALUE}", param=field)
        path = await self._files.enter_async_context(self._uploads.open_value(value, self._owner, field))
        picture = await self._uploads.decode_path(path, self._owner, field, background)
        self.ingredients.append(Ingredient(field, path, is_parent=field in EDITED["edit"], owner=self._owner))
        return picture
