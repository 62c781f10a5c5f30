"""Uploads: validates the media that users send and stores it."""

import asyncio
import base64
import io
import shutil
import tempfile
import time
import zipfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from composition.http.bodies import MEDIA_VALUE, ONLY_ONE_MEDIA_VALUE, MediaValue
from composition.http.changes import Changes
from composition.http.forms import NAME_LENGTH, Part
from composition.media.decode import Decoder, MediaFacts, probe_media
from composition.media.limits import MediaKind, MediaLimits
from composition.media.marks.reading import inspect_marks
from composition.media.marks.report import MarksReport
from composition.media.marks.settings import MarksSettings
from composition.media.turns import Turns
from composition.records.artifacts import Artifacts
from composition.records.store import Store, make_id
from composition.records.tables import COPIED_FRAMES, File
from services.errors import InvalidParameter, LimitExceeded, NotFound
from services.frames import Frames

CONCURRENT_CHECKS = 32
"""Maximum number of files that are open at the same time, each in its own process. They decode in turns."""
OWNER_CHECKS = 8
"""Maximum number of files of one owner that are open at the same time."""
MAX_LIST = 10_000
"""Maximum number of pictures in a list."""
CHUNK = 1 << 20
"""Bytes copied at a time."""
UPLOADS = "files/"
"""Beginning of the keys of uploads."""
KIND_NAMES: dict[MediaKind, str] = {
    "image": "a picture",
    "video": "a video",
    "pictures": "a zip of pictures",
    "sound": "a file with no video stream, only audio",
}
ACCEPTED: dict[MediaKind, tuple[str, frozenset[MediaKind]]] = {
    "image": ("a picture", frozenset({"image"})),
    "video": ("a video", frozenset({"video", "image"})),
    "pictures": ("pictures", frozenset({"pictures", "image"})),
    "sound": ("a sound file, or a video with sound", frozenset({"sound", "video"})),
}
"""Kind of a media field → its name in messages, and the kinds of file it accepts.

A picture is accepted as a video of one frame, and as a list of one picture. A video is accepted as its sound.
"""


@dataclass(frozen=True)
class _Description:
    """What is stored about a file besides its facts."""

    name: str
    owner: str
    purpose: str = "input"
    folder: str = UPLOADS
    """Beginning of its key."""


@dataclass(frozen=True)
class DecodedPicture:
    """A picture as a viewer would see it."""

    frames: Frames
    changes: Changes
    """What the decoder changed in it."""


class Uploads:
    """Validates media by decoding it, and stores it for its owner.

    Args:
        store: the database.
        artifacts: the artifact store, which holds the files.
        limits: limits on a file's size, duration and frame count.
        max_list_bytes: maximum total size of the pictures in a list, in bytes.
    """

    def __init__(self, store: Store, artifacts: Artifacts, limits: MediaLimits, max_list_bytes: int) -> None:
        self._store = store
        self._artifacts = artifacts
        self._limits = limits
        self._max_list_bytes = max_list_bytes
        self._checks = Turns(CONCURRENT_CHECKS, OWNER_CHECKS)

    async def store_part(self, part: Part, owner: str, purpose: str, param: str, *, takes_sound: bool = False) -> File:
        """Validate and store a file.

        Args:
            part: the file.
            owner: its owner.
            purpose: what it is for.
            param: the field, for errors.
            takes_sound: whether the file may hold only sound.

        Raises:
            UndecodableMedia, LimitExceeded: with `param` as the name of the field.
            ServiceBusy: other files are being decoded.
        """
        draft = self._artifacts.create_draft()
        try:
            await asyncio.to_thread(_copy, part.file, draft)
            return await self._store_draft(
                draft, _Description(part.name, owner, purpose), param, takes_sound=takes_sound
            )
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    async def store_bytes(self, data: bytes, owner: str, name: str) -> File:
        """Store a copy of a frame that a job has made, like an upload."""
        draft = self._artifacts.create_draft()
        try:
            await asyncio.to_thread(draft.write_bytes, data)
            return await self._store_draft(draft, _Description(name, owner, folder=COPIED_FRAMES), name)
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    async def store_media(self, value: MediaValue, kind: MediaKind, owner: str, param: str) -> File:
        """Return the stored file for the value of a media field; a form part or a `data:` URL is stored first.

        A list of pictures is stored as one zip archive, in the order of the list.

        Raises:
            InvalidParameter: the value is malformed, or the file is of the wrong kind.
            NotFound: the owner has no file with this id.
            UndecodableMedia, LimitExceeded, ServiceBusy: as `store_part`; LimitExceeded also if the list is too long.
        """
        if isinstance(value, list):
            if kind != "pictures":
                raise InvalidParameter(f"{param}: {ONLY_ONE_MEDIA_VALUE}", param=param)
            return await self._store_list(value, owner, param)
        if isinstance(value, str) and value.startswith("file_"):
            file = await asyncio.to_thread(self._find_file, value, owner, param, param)
        else:
            part = value if isinstance(value, Part) else Part(_decode_data_url(value, param, param), param)
            file = await self.store_part(part, owner, "input", param, takes_sound=kind == "sound")
        check_kind(file, kind, param, param)
        return file

    async def read_marks(self, value: Part | str, owner: str, param: str, settings: MarksSettings) -> MarksReport:
        """Read the marks of a file of any kind without storing it: a form part, a `data:` URL or the id of an upload.

        Args:
            value: the file.
            owner: owner of the upload.
            param: the request field to name in errors.
            settings: who is trusted.

        Raises InvalidParameter, NotFound, UndecodableMedia, LimitExceeded, ServiceBusy.
        """
        async with self.open_value(value, owner, param) as path, self._checks.take(owner, self._limits.turn_wait_s):
            return await inspect_marks(path, self._limits, settings, owner=owner)

    @asynccontextmanager
    async def open_value(self, value: Part | str, owner: str, param: str) -> AsyncGenerator[Path]:
        """Yield a local copy of a file of any kind, not stored: a form part, a `data:` URL or the id of an upload.

        The copy is removed at the end of the `async with` block. Raises InvalidParameter and NotFound.
        """
        if isinstance(value, str) and value.startswith("file_"):
            file = await asyncio.to_thread(self._find_file, value, owner, param, param)
            async with self._artifacts.open_local(self._artifacts.get_url(file.key)) as path:
                yield path
            return
        part = value if isinstance(value, Part) else Part(_decode_data_url(value, param, param), param)
        with tempfile.NamedTemporaryFile(prefix="reelgraph-") as draft:
            await asyncio.to_thread(_copy, part.file, Path(draft.name))
            yield Path(draft.name)

    async def delete_file(self, file_id: str, owner: str) -> None:
        """Delete a file.

        Raises:
            NotFound: the owner has no file with this id.
            Conflict: an unfinished job uses it.
        """
        file = await asyncio.to_thread(self._store.remove_file, file_id, owner)
        await asyncio.to_thread(self._artifacts.remove, file.key)

    async def decode_path(self, path: Path, owner: str, param: str, background: str | None = None) -> DecodedPicture:
        """Decode a local file as a picture, without storing it.

        Args:
            path: the file.
            owner: among whom decoders share the processor.
            param: the request field to name in errors.
            background: what a transparent picture is composited on; by default the configured colour.

        Raises InvalidParameter, UndecodableMedia, LimitExceeded, ServiceBusy.
        """
        opening = Decoder.open(path, self._limits, param=param, owner=owner, background=background)
        async with self._checks.take(owner, self._limits.turn_wait_s), opening as decoder:
            if decoder.facts.kind != "image":
                raise InvalidParameter(f"{param}: must be a picture, got {KIND_NAMES[decoder.facts.kind]}", param=param)
            return DecodedPicture(await decoder.read_last(), decoder.facts.changes)

    async def _store_draft(self, draft: Path, about: _Description, param: str, *, takes_sound: bool = False) -> File:
        """Validate a local file and copy it to the artifact store and the database."""
        owner = about.owner
        async with self._checks.take(owner, self._limits.turn_wait_s):
            facts = await probe_media(draft, self._limits, param=param, owner=owner, takes_sound=takes_sound)
        file_id = make_id("file")
        file = File(
            id=file_id,
            owner=about.owner,
            created_at=time.time(),
            filename=about.name[:NAME_LENGTH],
            purpose=about.purpose,
            bytes=(await asyncio.to_thread(draft.stat)).st_size,
            key=f"{about.folder}{file_id}",
            facts=_encode_facts(facts),
        )
        await asyncio.to_thread(self._artifacts.put_file, file.key, draft)
        return await asyncio.to_thread(self._store.add_file, file)

    async def _store_list(self, values: Sequence[Part | str], owner: str, param: str) -> File:
        if not values:
            raise InvalidParameter(f"{param}: the list must not be empty", param=param)
        if len(values) > MAX_LIST:
            raise LimitExceeded(f"{param}: the list has {len(values)} pictures; the limit is {MAX_LIST}", param=param)
        draft = self._artifacts.create_draft()
        try:
            await asyncio.to_thread(self._write_zip, values, draft, owner, param)
            return await self._store_draft(draft, _Description(f"{param}.zip", owner), param)
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)

    def _write_zip(self, values: Sequence[Part | str], target: Path, owner: str, param: str) -> None:
        """Write a list of pictures as a zip archive; each entry's name is its index in the list."""
        remaining = self._max_list_bytes
        with zipfile.ZipFile(target, "w") as archive:
            for index, value in enumerate(values):
                entry = zipfile.ZipInfo(f"{index:06}")
                with archive.open(entry, "w", force_zip64=True) as file:
                    for chunk in self._read_item(value, owner, param, f"{param}[{index}]"):
                        remaining -= len(chunk)
                        if remaining < 0:
                            raise LimitExceeded(
                                f"{param}: the pictures are larger in total than the limit of"
                                f" {self._max_list_bytes} bytes (max_body_bytes)",
                                param=param,
                            )
                        file.write(chunk)

    def _read_item(self, value: Part | str, owner: str, param: str, place: str) -> Iterator[bytes]:
        """Yield the bytes of one picture of a list. `place` names the item in messages, e.g. `edge_frames[3]`."""
        if isinstance(value, str) and value.startswith("file_"):
            file = self._find_file(value, owner, param, place)
            check_kind(file, "image", param, place)
            yield from self._artifacts.read(file.key)
            return
        source = value.file if isinstance(value, Part) else _decode_data_url(value, param, place)
        source.seek(0)
        while chunk := source.read(CHUNK):
            yield chunk

    def _find_file(self, file_id: str, owner: str, param: str, place: str) -> File:
        """Return an uploaded file. Raises NotFound."""
        try:
            return self._store.get_file(file_id, owner)
        except NotFound as error:
            raise NotFound(f"{place}: there is no file {file_id[:80]!r}", param=param) from error


def _encode_facts(facts: MediaFacts) -> dict[str, Any]:
    """Return the facts as JSON values; the frame rate is a fraction as text."""
    return {**asdict(facts), "rate": None if facts.rate is None else str(facts.rate)}


def _copy(source: IO[bytes], target: Path) -> None:
    source.seek(0)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def check_kind(file: File, kind: MediaKind, param: str, place: str) -> None:
    """Raise InvalidParameter if a field of this kind does not accept the file."""
    expected, accepted = ACCEPTED[kind]
    if file.facts["kind"] not in accepted:
        raise InvalidParameter(f"{place}: must be {expected}, got {KIND_NAMES[file.facts['kind']]}", param=param)
    if kind == "sound" and not file.facts.get("sound"):
        raise InvalidParameter(f"{place}: must be {expected}, got a video without sound", param=param)


def _decode_data_url(url: str, param: str, place: str) -> IO[bytes]:
    """Return the content of a `data:` URL.

    Args:
        url: as given by the user; any text.
        param: the field, for the error.
        place: the field, or the item of a list in it, for the message.

    Raises:
        InvalidParameter: it is not a `data:` URL in base64.
    """
    if not url.startswith("data:"):
        raise InvalidParameter(f"{place}: {MEDIA_VALUE}", param=param)
    if not url.isascii():
        raise InvalidParameter(f"{place}: the data: URL is not valid base64", param=param)
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidParameter(f"{place}: a data: URL must be data:TYPE;base64,DATA", param=param)
    try:
        return io.BytesIO(base64.b64decode(data, validate=True))
    except ValueError as error:
        raise InvalidParameter(f"{place}: the data: URL is not valid base64", param=param) from error
