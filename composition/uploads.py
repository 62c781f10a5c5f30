"""Taking in what users send: bodies within a limit that is held while reading, and media that decodes."""

import asyncio
import base64
import binascii
import io
import shutil
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from composition.artifacts import Artifacts
from composition.decode import MediaFacts, MediaLimits, check
from composition.graph import MediaKind
from composition.store import Store, new_id
from composition.tables import File
from services.errors import InvalidParameter, InvalidRequest, NotFound, PayloadTooLarge

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

CHECKS_AT_ONCE = 2
"""Files that are decoded at a time, each in a process of its own."""
NAME_LENGTH = 255
"""Characters of a file name that are kept."""


def limited(receive: Receive, content_length: str | None, limit: int) -> Receive:
    """Return a `receive` that raises PayloadTooLarge as soon as a body is known to have more than `limit` bytes.

    Raises:
        PayloadTooLarge: the Content-Length says so already.
        InvalidRequest: the Content-Length is no number.
    """
    too_large = f"the body has more bytes than the limit of {limit}"
    if content_length is not None:
        if not content_length.isdecimal():
            raise InvalidRequest("Content-Length: must be a number")
        if int(content_length) > limit:
            raise PayloadTooLarge(f"{too_large}: Content-Length says {content_length}")
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise PayloadTooLarge(too_large)
        return message

    return counting


@dataclass(frozen=True)
class Part:
    """A file as it came: open at its beginning, with the name that its user gave it."""

    file: IO[bytes]
    name: str


class Uploads:
    """Stores media for its owner once it is known to decode."""

    def __init__(self, store: Store, artifacts: Artifacts, limits: MediaLimits) -> None:
        self._store = store
        self._artifacts = artifacts
        self._limits = limits
        self._checking = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def admit(self, part: Part, owner: str, purpose: str, param: str) -> File:
        """Keep a file. Raises UndecodableMedia and LimitExceeded, with `param` as the field to blame."""
        draft = self._artifacts.draft()
        try:
            await asyncio.to_thread(_copy, part.file, draft)
            return await self._keep(draft, part.name, owner, purpose, param)
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    async def _keep(self, draft: Path, name: str, owner: str, purpose: str, param: str) -> File:
        async with self._checking:
            facts = await check(draft, self._limits, param=param)
        file_id = new_id("file")
        file = File(
            id=file_id,
            owner=owner,
            created_at=time.time(),
            filename=name[:NAME_LENGTH],
            purpose=purpose,
            bytes=(await asyncio.to_thread(draft.stat)).st_size,
            key=f"files/{file_id}",
            facts=_told(facts),
        )
        await asyncio.to_thread(self._artifacts.put_file, file.key, draft)
        return await asyncio.to_thread(self._store.add_file, file)

    async def media(self, value: Part | str, kind: MediaKind, owner: str, param: str) -> File:
        """The file that a media field means: a part of the request, a `data:` URL or the id of an upload.

        Raises InvalidParameter when it is none of these or of the wrong kind, and what `admit` raises.
        """
        if isinstance(value, Part):
            file = await self.admit(value, owner, "input", param)
        elif value.startswith("data:"):
            file = await self.admit(Part(_data_url(value, param), f"{param}"), owner, "input", param)
        elif value.startswith("file_"):
            try:
                file = await asyncio.to_thread(self._store.file, value, owner)
            except NotFound as error:
                raise NotFound(f"{param}: there is no file {value[:80]!r}", param=param) from error
        else:
            raise InvalidParameter(f"{param}: must be a file id (file_…), a data: URL or a form part", param=param)
        if kind == "image" and file.facts["kind"] != "image":
            raise InvalidParameter(f"{param}: needs a picture, and this is a video", param=param)
        return file

    async def remove(self, file_id: str, owner: str) -> None:
        """Raises NotFound, or Conflict while a job needs it."""
        file = await asyncio.to_thread(self._store.remove_file, file_id, owner)
        await asyncio.to_thread(self._artifacts.remove, file.key)


def _told(facts: MediaFacts) -> dict[str, Any]:
    return {**asdict(facts), "rate": None if facts.rate is None else str(facts.rate)}


def _copy(source: IO[bytes], target: Path) -> None:
    source.seek(0)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _data_url(url: str, param: str) -> IO[bytes]:
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidParameter(f"{param}: a data: URL must be data:TYPE;base64,DATA", param=param)
    try:
        return io.BytesIO(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise InvalidParameter(f"{param}: the data: URL is not base64", param=param) from error
