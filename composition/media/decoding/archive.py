"""Sources of pictures: a zip archive that a user sent, or a folder on this machine.

Nothing is unpacked to disk. The sizes that an archive declares are not trusted: readers stop at their own limit.
"""

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Never, Protocol

from services.errors import LimitExceeded, ReelError, UndecodableMedia

INDEX_BYTES = 64 << 20
"""Maximum size of a zip directory, which is read into memory; enough for over a million entries."""
MAX_NAME = 60
"""Number of trailing characters of a file name that an error message shows."""
UNSAFE_PATHS = {
    re.compile("\0"): "the path contains a NUL character",
    re.compile(r"\\"): "the path contains a backslash",
    re.compile(r"\A/"): "the path is absolute",
    re.compile(r"\A[A-Za-z]:"): "the path begins with a drive letter",
    re.compile(r"(\A|/)\.\.(/|\Z)"): "the path leads out of the archive (..)",
}
"""Pattern of a forbidden path → reason."""
METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz", 99: "AES"}
LARGE_READ = 1 << 20
"""Size from which on a read is that of a directory: files are read in smaller pieces."""
ENCRYPTED = 0x2041
"""Flag bits of an entry: encrypted, strongly encrypted, header masked."""
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)
"""Exceptions that zipfile raises for damaged archives."""


class PictureSource(Protocol):
    """A collection of picture files."""

    names: list[str]
    """Paths of the pictures, in natural order."""

    def size(self, name: str) -> int:
        """Return the declared size of a picture file in bytes."""
        ...

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a picture file inside the `with` block. Opening and reading raise UndecodableMedia."""
        ...


class Archive:
    """A zip archive of pictures.

    Args:
        path: the archive.
        most: maximum number of files.
        prepare: called with the size of a large directory in bytes, before it is read.

    Raises:
        UndecodableMedia: the archive is damaged, or an entry is not a plain file. The message names the entry.
        LimitExceeded: there are more than `most` files.
    """

    def __init__(self, path: str, most: int, prepare: Callable[[int], None] | None = None) -> None:
        try:
            self._zip = zipfile.ZipFile(BoundedFile(path, prepare))
        except ZIP_ERRORS as error:
            raise UndecodableMedia(
                "the zip archive is truncated or damaged: the directory at its end cannot be read"
            ) from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            with name_errors(info.orig_filename):
                name = _parse_path(info)
                if name is None:
                    continue
                if name in self._entries:
                    raise UndecodableMedia("the archive has two files of this name")
                _check_entry(info)
            self._entries[name] = info
            check_count(len(self._entries), most)
        self.names = sorted(self._entries, key=natural_key)

    def size(self, name: str) -> int:
        return self._entries[name].file_size

    @contextmanager
    def open(self, name: str) -> Generator[IO[bytes]]:
        try:
            with self._zip.open(self._entries[name]) as file:
                yield file
        except ZIP_ERRORS as error:
            is_checksum = isinstance(error, zipfile.BadZipFile) and "CRC" in str(error)
            reason = "the checksum (CRC) is wrong" if is_checksum else "the archive is damaged or truncated"
            raise UndecodableMedia(f"the file cannot be unpacked: {reason}") from error


class Folder:
    """A folder of pictures, including its subfolders. Links to files are followed.

    Args:
        path: the folder, which only callers on this machine can name.
        most: maximum number of files.

    Raises:
        UndecodableMedia: the folder cannot be read, or an entry is neither a file nor a folder. The message names the
            entry.
        LimitExceeded: there are more than `most` files.
    """

    def __init__(self, path: str, most: int) -> None:
        self._root = Path(path)
        self.names: list[str] = []
        for place, folders, files in os.walk(path, onerror=_raise_unreadable):
            for entry in (Path(place, name) for name in (*folders, *files)):
                name = entry.relative_to(self._root).as_posix()
                if is_ignored(name) or (entry.is_dir() and not entry.is_symlink()):
                    continue
                with name_errors(name):
                    if not entry.is_file():
                        raise UndecodableMedia(
                            "must be a file, got a link to a folder, a broken link or a special file"
                        )
                self.names.append(name)
                check_count(len(self.names), most)
        self.names.sort(key=natural_key)

    def size(self, name: str) -> int:
        return (self._root / name).stat().st_size

    @contextmanager
    def open(self, name: str) -> Generator[IO[bytes]]:
        try:
            with (self._root / name).open("rb") as file:
                yield file
        except OSError as error:
            _raise_unreadable(error)


class BoundedFile(io.FileIO):
    """A file with a limit on the size of one read: zipfile reads as large a directory as the archive declares.

    Args:
        path: of the file.
        prepare: called with the size of a large read before it.
    """

    def __init__(self, path: str, prepare: Callable[[int], None] | None = None) -> None:
        super().__init__(path)
        self._prepare = prepare

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes. Raises LimitExceeded if `size` is over INDEX_BYTES."""
        if size is not None and size > INDEX_BYTES:
            raise LimitExceeded(f"the zip directory has {size} bytes; the limit is {INDEX_BYTES}")
        if size is not None and size > LARGE_READ and self._prepare is not None:
            self._prepare(size)
        return super().read(-1 if size is None else size) or b""


@contextmanager
def name_errors(name: str) -> Generator[None]:
    """Add the name of the picture to errors that are raised in the `with` block."""
    try:
        yield
    except ReelError as error:
        label = name if len(name) <= MAX_NAME else f"…{name[-MAX_NAME:]}"
        raise type(error)(f"{label!r}: {error.message}") from error


def natural_key(path: str) -> list[list[str | tuple[int, str]]]:
    """Return the sort key of natural order: by folder, digits as numbers, case-insensitive, the extension last."""
    *parts, name = path.split("/")
    stem, dot, ending = name.rpartition(".")
    return [
        [_digits_key(piece) if i % 2 else piece.casefold() for i, piece in enumerate(re.split("([0-9]+)", part))]
        for part in (*parts, *((stem, ending) if dot else (name,)))
    ]


def _digits_key(digits: str) -> tuple[int, str]:
    """Return a sort key that orders digit strings of any length by value."""
    digits = digits.lstrip("0")
    return len(digits), digits


def check_count(count: int, most: int) -> None:
    """Raise LimitExceeded if `count` is over `most`."""
    if count > most:
        raise LimitExceeded(f"there are more pictures than the limit of {most} (max_frames)")


def is_ignored(path: str) -> bool:
    """Whether a path is hidden or a system file, such as `.DS_Store`, `__MACOSX/…` or `Thumbs.db`."""
    parts = path.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() == "thumbs.db"


def _parse_path(info: zipfile.ZipInfo) -> str | None:
    """Return the path of an entry; None for folders and ignored files. Raises UndecodableMedia for unsafe paths."""
    name = info.orig_filename
    for pattern, reason in UNSAFE_PATHS.items():
        if pattern.search(name):
            raise UndecodableMedia(reason)
    if name.endswith("/") or stat.S_ISDIR(info.external_attr >> 16):
        return None
    path = "/".join(part for part in name.split("/") if part not in ("", "."))
    if not path:
        raise UndecodableMedia("the file has no name")
    return None if is_ignored(path) else path


def _check_entry(info: zipfile.ZipInfo) -> None:
    """Raise UndecodableMedia unless an entry is a plain file that can be unpacked."""
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise UndecodableMedia("must be a file, got a link or a special file")
    if info.flag_bits & ENCRYPTED:
        raise UndecodableMedia("the file is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = METHODS.get(info.compress_type, f"number {info.compress_type}")
        raise UndecodableMedia(f"compression must be deflate or none, got {method}")


def _raise_unreadable(error: OSError) -> Never:
    raise UndecodableMedia(f"the file cannot be read: {error.strerror}") from error
