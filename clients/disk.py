"""Reading what is sent, and writing what is received, a piece at a time."""

import io
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, TypeAlias, cast

from reelgraph.flows import OnBytes
from reelgraph.folders import packed
from reelgraph.wire import Part

Sent: TypeAlias = tuple[str, tuple[str, IO[bytes]]]
"""A part of a multipart request: field, and name and content of the file."""


class _Meter:
    """Says how much has been read of all files of a request."""

    def __init__(self, on_progress: OnBytes | None) -> None:
        self._on_progress = on_progress
        self._done = 0
        self.total = 0

    def read(self, count: int) -> None:
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, self.total)


class _Reader(io.RawIOBase):
    """A file that is open only while it is read, so that a request may have more of them than a process."""

    def __init__(self, opening: Callable[[], IO[bytes]], meter: _Meter) -> None:
        with opening() as file:
            self._size = os.fstat(file.fileno()).st_size
        meter.total += self._size
        self._opening = opening
        self._meter = meter
        self._at = 0
        self._file: IO[bytes] | None = None

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """The size is asked for by seeking the end."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        if self._file is None:
            self._file = self._opening()
        self._file.seek(self._at)
        piece = self._file.read(size)
        self._at += len(piece)
        self._meter.read(len(piece))
        if not piece:
            self._shut()
        return piece

    def close(self) -> None:
        self._shut()
        super().close()

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class OpenParts:
    """The files of a multipart request; a folder, where one may stand, as a zip. Closed by `with`.

    Raises:
        IsADirectoryError, FileNotFoundError, PermissionError: before a byte is sent.
    """

    def __init__(self, parts: Sequence[Part], on_progress: OnBytes | None) -> None:
        meter = _Meter(on_progress)
        with ExitStack() as stack:
            self._sent = [_sent(part, stack, meter) for part in parts]
            self._open = stack.pop_all()

    def __enter__(self) -> list[Sent]:
        return self._sent

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _sent(part: Part, stack: ExitStack, meter: _Meter) -> Sent:
    if part.or_folder and part.path.is_dir():
        draft = stack.enter_context(packed(part.path))
        name, opening = f"{part.path.resolve().name}.zip", lambda: os.fdopen(os.dup(draft.fileno()), "rb", 0)
    else:
        name, opening = part.path.name, lambda: part.path.open("rb", 0)
    return part.name, (name, cast("IO[bytes]", stack.enter_context(_Reader(opening, meter))))


class Landing:
    """A file that appears under its name when it is whole, and not at all when something goes wrong.

    The bytes go to a hidden file beside it, so that the last step is a rename within one file system.
    """

    def __init__(self, target: Path) -> None:
        if target.exists() and not target.is_file():  # a rename would replace a device by a file
            raise OSError(f"{target} exists and is not a file")
        self._target = target
        self._draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")

    def __enter__(self) -> "Landing":
        self._file = self._draft.open("xb")
        return self

    def write(self, piece: bytes, offset: int) -> None:
        """Write at `offset` bytes; what was written behind it before is forgotten."""
        if self._file.tell() != offset:
            self._file.seek(offset)
            self._file.truncate()
        self._file.write(piece)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # writes the rest, for which the disk may have no room
            if kind is None:
                self._draft.replace(self._target)
        finally:
            self._draft.unlink(missing_ok=True)
