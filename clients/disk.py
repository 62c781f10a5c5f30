"""Reading what is sent, and writing what is received, a piece at a time."""

import io
import os
import secrets
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from clients.flows import OnBytes


class _Reader(io.FileIO):
    """A file that says how far it has been read."""

    def __init__(self, path: Path, on_progress: OnBytes | None) -> None:
        super().__init__(path, "rb")
        self._on_progress = on_progress
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(-1 if size is None else size) or b""
        if self._on_progress is not None:
            self._on_progress(self.tell(), self._size)
        return piece


@contextmanager
def opened(parts: Mapping[str, Path], on_progress: OnBytes | None) -> Generator[dict[str, tuple[str, BinaryIO]]]:
    """Open the files of a multipart request, as {field: (file name, file)}. Raises OSError.

    Raises:
        IsADirectoryError, FileNotFoundError, PermissionError: before a byte is sent.
    """
    with ExitStack() as stack:
        yield {
            name: (path.name, cast("BinaryIO", stack.enter_context(_Reader(path, on_progress))))
            for name, path in parts.items()
        }


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
