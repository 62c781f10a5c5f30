"""Reads files to upload and writes downloaded files, a chunk at a time."""

import io
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, TypeAlias, cast

from reelgraph.flows import OnBytes
from reelgraph.folders import zip_folder
from reelgraph.wire import Part

FilePart: TypeAlias = tuple[str, tuple[str, IO[bytes]]]
"""A file of a multipart request: (field, (file name, content))."""


class _Meter:
    """Reports how many bytes have been read of all files of a request."""

    def __init__(self, on_progress: OnBytes | None) -> None:
        self._on_progress = on_progress
        self._done = 0
        self.total = 0

    def add(self, count: int) -> None:
        """Report that `count` more bytes were read."""
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, self.total)


class _Reader(io.RawIOBase):
    """A file that is open only while it is read, so that a request can have more files than a process may open."""

    def __init__(self, open_file: Callable[[], IO[bytes]], meter: _Meter) -> None:
        with open_file() as file:
            self._size = os.fstat(file.fileno()).st_size
        meter.total += self._size
        self._open_file = open_file
        self._meter = meter
        self._position = 0
        self._file: IO[bytes] | None = None

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position. httpx seeks the end to determine the size."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        if self._file is None:
            self._file = self._open_file()
        self._file.seek(self._position)
        chunk = self._file.read(size)
        self._position += len(chunk)
        self._meter.add(len(chunk))
        if not chunk:
            self._close_file()
        return chunk

    def close(self) -> None:
        self._close_file()
        super().close()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class OpenParts:
    """Context manager that opens the files of a multipart request; a folder is opened as a zip archive.

    Raises:
        IsADirectoryError, FileNotFoundError, PermissionError: a file cannot be read; raised before anything is sent.
    """

    def __init__(self, parts: Sequence[Part], on_progress: OnBytes | None) -> None:
        meter = _Meter(on_progress)
        with ExitStack() as stack:
            self._files = [_open_part(part, stack, meter) for part in parts]
            self._stack = stack.pop_all()

    def __enter__(self) -> list[FilePart]:
        return self._files

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _open_part(part: Part, stack: ExitStack, meter: _Meter) -> FilePart:
    if part.accepts_folder and part.path.is_dir():
        draft = stack.enter_context(zip_folder(part.path))
        name, open_file = f"{part.path.resolve().name}.zip", lambda: os.fdopen(os.dup(draft.fileno()), "rb", 0)
    else:
        name, open_file = part.path.name, lambda: part.path.open("rb", 0)
    return part.name, (name, cast("IO[bytes]", stack.enter_context(_Reader(open_file, meter))))


class AtomicFile:
    """Context manager that writes a file, which appears under its name only if the block ends without an error.

    The bytes are written to a hidden file in the same folder, which is renamed at the end.
    """

    def __init__(self, target: Path) -> None:
        if target.exists() and not target.is_file():  # the rename would replace e.g. a device
            raise OSError(f"{target} exists and is not a file")
        self._target = target
        self._draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")

    def __enter__(self) -> "AtomicFile":
        self._file = self._draft.open("xb")
        return self

    def write(self, chunk: bytes, offset: int) -> None:
        """Write a chunk at an offset in bytes, and discard everything written after that offset before."""
        if self._file.tell() != offset:
            self._file.seek(offset)
            self._file.truncate()
        self._file.write(chunk)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # flushes, which fails if the disk is full
            if kind is None:
                self._draft.replace(self._target)
        finally:
            self._draft.unlink(missing_ok=True)
