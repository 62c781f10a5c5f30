"""Where results and uploads lie: a directory, or a bucket through fsspec (`s3://…`)."""

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec  # pyright: ignore[reportMissingTypeStubs]
from fsspec.implementations.local import LocalFileSystem  # pyright: ignore[reportMissingTypeStubs]
from pydantic import BaseModel, ConfigDict, Field

from services.errors import NotFound, StorageFailed

CHUNK = 1 << 20
"""Bytes read at a time."""


class ArtifactSettings(BaseModel):
    """Where artifacts lie."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    """A directory, or any URL that fsspec knows, e.g. `s3://bucket/reelgraph`."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """What the file system is opened with, e.g. `endpoint_url` for a private S3."""


class Artifacts:
    """A flat space of keys such as `videos/ID/00003.m4s`. A key is there whole or not at all.

    Keys are made by the project, never by a user. Methods block; `local` is the exception.
    """

    def __init__(self, settings: ArtifactSettings) -> None:
        url_to_fs = cast("Callable[..., tuple[Any, str]]", fsspec.core.url_to_fs)  # pyright: ignore[reportUnknownMemberType]
        system, root = url_to_fs(settings.url, **settings.options)
        self._system = system
        self._root = root.rstrip("/")
        self._is_local = isinstance(system, LocalFileSystem)
        if self._is_local:
            Path(self._root).mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def put(self, key: str, data: bytes) -> None:
        """Store bytes. Raises StorageFailed."""
        draft = self.draft()
        draft.write_bytes(data)
        self.put_file(key, draft)

    def put_file(self, key: str, source: Path) -> None:
        """Move a local file into the store; `source` is gone afterwards. Raises StorageFailed."""
        try:
            if self._is_local:
                _move(source, Path(self._path(key)))
            else:
                self._system.put_file(str(source), self._path(key))
                source.unlink()
        except OSError as error:
            raise StorageFailed(
                f"the artifact store refused a write: {error.strerror or type(error).__name__}"
            ) from error

    def size(self, key: str) -> int:
        """Bytes. Raises NotFound."""
        try:
            return int(self._system.size(self._path(key)))
        except FileNotFoundError as error:
            raise NotFound("the content is no longer there") from error

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to before `stop`, a chunk at a time. Raises NotFound."""
        try:
            file = cast("IO[bytes]", self._system.open(self._path(key), "rb", block_size=CHUNK))
        except FileNotFoundError as error:
            raise NotFound("the content is no longer there") from error
        with file:
            file.seek(start)
            left = (self.size(key) if stop is None else stop) - start
            while left > 0 and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk

    def remove(self, prefix: str) -> None:
        """Remove one key, or all keys below a prefix. Nothing there is no error."""
        if self._system.exists(self._path(prefix)):
            self._system.rm(self._path(prefix), recursive=True)

    def url(self, key: str) -> str:
        """What `local` opens on any machine that shares the store."""
        return self._path(key) if self._is_local else str(self._system.unstrip_protocol(self._path(key)))

    @asynccontextmanager
    async def local(self, url: str) -> AsyncGenerator[Path]:
        """A URL of this store, or a path, as a local file for as long as the block lasts. Raises NotFound."""
        if "://" not in url:
            path = Path(url)
            if not await asyncio.to_thread(path.is_file):
                raise NotFound(f"there is no file {path.name!r}")
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="reelgraph-") as folder:
            target = Path(folder) / Path(url).name
            await asyncio.to_thread(self._fetch, url, target)
            yield target

    def _fetch(self, url: str, target: Path) -> None:
        try:
            self._system.get_file(url, str(target))
        except FileNotFoundError as error:
            raise NotFound("the content is no longer there") from error

    def draft(self) -> Path:
        """A new empty file to write to, for `put_file`."""
        with tempfile.NamedTemporaryFile(dir=self._drafts(), delete=False) as file:
            return Path(file.name)

    def _drafts(self) -> str | None:
        """Drafts lie on the same disk as what they become, so that the last step is a rename."""
        if not self._is_local:
            return None
        folder = Path(self._root) / ".drafts"
        folder.mkdir(exist_ok=True)
        return str(folder)


def _move(source: Path, target: Path) -> None:
    """Put a file in its place, on disk before it has its name: a row in the database may say that it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as written:
        os.fsync(written.fileno())
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(source, target.with_suffix(".part"))
        target.with_suffix(".part").replace(target)
        source.unlink()
