"""Taking in the media that users send, once it is known to decode."""

import asyncio
import base64
import io
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from composition.http.bodies import ONE_OF, MediaValue
from composition.http.forms import NAME_LENGTH, Part
from composition.media.decode import Decoder, MediaFacts, probe_media
from composition.media.limits import MediaKind, MediaLimits
from composition.records.artifacts import Artifacts
from composition.records.store import Store, make_id
from composition.records.tables import File
from services.errors import InvalidParameter, LimitExceeded, NotFound
from services.frames import Frames

CHECKS_AT_ONCE = 2
"""Files that are decoded at a time, each in a process of its own."""
MAX_LIST = 10_000
"""Pictures in a list."""
CHUNK = 1 << 20
"""Bytes copied at a time."""
CALLED: dict[MediaKind, str] = {"image": "a picture", "video": "a video", "pictures": "a zip of pictures"}
NEEDS: dict[MediaKind, tuple[str, frozenset[MediaKind]]] = {
    "image": ("a picture", frozenset({"image"})),
    "video": ("a video", frozenset({"video", "image"})),
    "pictures": ("pictures", frozenset({"pictures", "image"})),
}
"""What a field of a kind takes: a picture is a video of one frame, and a list of one."""


class Uploads:
    """Stores media for its owner once it is known to decode.

    Args:
        store: remembers the files.
        artifacts: where they lie.
        limits: what a file may be.
        max_list_bytes: of the pictures of a list together.
    """

    def __init__(self, store: Store, artifacts: Artifacts, limits: MediaLimits, max_list_bytes: int) -> None:
        self._store = store
        self._artifacts = artifacts
        self._limits = limits
        self._max_list_bytes = max_list_bytes
        self._checking = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def admit(self, part: Part, owner: str, purpose: str, param: str) -> File:
        """Keep a file. Raises UndecodableMedia and LimitExceeded, with `param` as the field to blame."""
        draft = self._artifacts.create_draft()
        try:
            await asyncio.to_thread(_copy, part.file, draft)
            return await self._keep(draft, part.name, owner, purpose, param)
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    async def keep(self, data: bytes, owner: str, name: str) -> File:
        """Keep what the server itself has made, as if it had been sent."""
        return await self.admit(Part(io.BytesIO(data), name), owner, "input", name)

    async def picture(self, value: Part | str, owner: str, param: str) -> Frames:
        """Decode a picture and keep nothing: a part of the request, a `data:` URL or the id of an upload.

        Raises InvalidParameter, NotFound, UndecodableMedia, LimitExceeded.
        """
        if isinstance(value, str) and value.startswith("file_"):
            file = await asyncio.to_thread(self._stored, value, owner, param, param)
            async with self._artifacts.open_local(self._artifacts.get_url(file.key)) as path:
                return await self._decoded(path, param)
        part = value if isinstance(value, Part) else Part(_data_url(value, param, param), param)
        with tempfile.NamedTemporaryFile(prefix="reelgraph-") as draft:
            await asyncio.to_thread(_copy, part.file, Path(draft.name))
            return await self._decoded(Path(draft.name), param)

    async def _decoded(self, path: Path, param: str) -> Frames:
        async with self._checking, Decoder.open(path, self._limits, param=param) as decoder:
            if decoder.facts.kind != "image":
                raise InvalidParameter(
                    f"{param}: needs a picture, and this is {CALLED[decoder.facts.kind]}", param=param
                )
            return await decoder.read_last()

    async def _keep(self, draft: Path, name: str, owner: str, purpose: str, param: str) -> File:
        async with self._checking:
            facts = await probe_media(draft, self._limits, param=param)
        file_id = make_id("file")
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

    async def media(self, value: MediaValue, kind: MediaKind, owner: str, param: str) -> File:
        """The file that a media field means: a part of the request, a `data:` URL or the id of an upload.

        Pictures may come as a list of these; they become one file, a zip archive in the order of the list.

        Raises InvalidParameter when it is none of these or of the wrong kind, LimitExceeded, NotFound, and what `admit`
        raises.
        """
        if isinstance(value, list):
            if kind != "pictures":
                raise InvalidParameter(f"{param}: {ONE_OF}, and only one of them", param=param)
            return await self._list(value, owner, param)
        if isinstance(value, str) and value.startswith("file_"):
            file = await asyncio.to_thread(self._stored, value, owner, param, param)
        else:
            part = value if isinstance(value, Part) else Part(_data_url(value, param, param), param)
            file = await self.admit(part, owner, "input", param)
        _check_kind(file, kind, param, param)
        return file

    async def _list(self, values: Sequence[Part | str], owner: str, param: str) -> File:
        if not values:
            raise InvalidParameter(f"{param}: the list has no pictures in it", param=param)
        if len(values) > MAX_LIST:
            raise LimitExceeded(f"{param}: the list has {len(values)} pictures; the limit is {MAX_LIST}", param=param)
        draft = self._artifacts.create_draft()
        try:
            await asyncio.to_thread(self._pack, values, draft, owner, param)
            return await self._keep(draft, f"{param}.zip", owner, "input", param)
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    def _pack(self, values: Sequence[Part | str], target: Path, owner: str, param: str) -> None:
        """Write a list of pictures as a zip archive that bears their order in its names."""
        left = self._max_list_bytes
        with zipfile.ZipFile(target, "w") as archive:
            for number, value in enumerate(values):
                entry = zipfile.ZipInfo(f"{number:06}")
                with archive.open(entry, "w", force_zip64=True) as file:
                    for chunk in self._chunks(value, owner, param, f"{param}[{number}]"):
                        left -= len(chunk)
                        if left < 0:
                            raise LimitExceeded(
                                f"{param}: its pictures together have more bytes than the limit of"
                                f" {self._max_list_bytes} (max_body_bytes)",
                                param=param,
                            )
                        file.write(chunk)

    def _chunks(self, value: Part | str, owner: str, param: str, place: str) -> Iterator[bytes]:
        """The bytes of one picture of a list; `place` says which."""
        if isinstance(value, str) and value.startswith("file_"):
            file = self._stored(value, owner, param, place)
            _check_kind(file, "image", param, place)
            yield from self._artifacts.read(file.key)
            return
        source = value.file if isinstance(value, Part) else _data_url(value, param, place)
        source.seek(0)
        while chunk := source.read(CHUNK):
            yield chunk

    def _stored(self, file_id: str, owner: str, param: str, place: str) -> File:
        try:
            return self._store.get_file(file_id, owner)
        except NotFound as error:
            raise NotFound(f"{place}: there is no file {file_id[:80]!r}", param=param) from error

    async def remove(self, file_id: str, owner: str) -> None:
        """Raises NotFound, or Conflict while a job needs it."""
        file = await asyncio.to_thread(self._store.remove_file, file_id, owner)
        await asyncio.to_thread(self._artifacts.remove, file.key)


def _told(facts: MediaFacts) -> dict[str, Any]:
    return {**asdict(facts), "rate": None if facts.rate is None else str(facts.rate)}


def _copy(source: IO[bytes], target: Path) -> None:
    source.seek(0)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def _check_kind(file: File, kind: MediaKind, param: str, place: str) -> None:
    """Raises InvalidParameter."""
    needed, taken = NEEDS[kind]
    if file.facts["kind"] not in taken:
        raise InvalidParameter(f"{place}: needs {needed}, and this is {CALLED[file.facts['kind']]}", param=param)


def _data_url(url: str, param: str, place: str) -> IO[bytes]:
    """Raises InvalidParameter; `place` says where."""
    if not url.startswith("data:"):
        raise InvalidParameter(f"{place}: {ONE_OF}", param=param)
    if not url.isascii():
        raise InvalidParameter(f"{place}: the data: URL is not base64", param=param)
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidParameter(f"{place}: a data: URL must be data:TYPE;base64,DATA", param=param)
    try:
        return io.BytesIO(base64.b64decode(data, validate=True))
    except ValueError as error:
        raise InvalidParameter(f"{place}: the data: URL is not base64", param=param) from error
