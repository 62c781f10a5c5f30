"""Where pictures lie one beside another: in a zip archive that a user sent, or in a folder on this machine.

Nothing is unpacked to disk, and an archive is not believed: whoever reads an entry stops at a limit of his own.
"""

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Never, Protocol

from services.errors import LimitExceeded, ReelError, UndecodableMedia

INDEX_BYTES = 64 << 20
"""The most that an archive's directory may have, which is read into memory: over a million entries."""
MAX_NAME = 60
"""Characters of a name that an error repeats: the last ones."""
UNSAFE_PATHS = {
    re.compile("\0"): "its name has a NUL character in it",
    re.compile(r"\\"): "its path has a backslash in it",
    re.compile(r"\A/"): "its path is absolute",
    re.compile(r"\A[A-Za-z]:"): "its path begins with a drive letter",
    re.compile(r"(\A|/)\.\.(/|\Z)"): "its path leads out of its folder (..)",
}
"""Paths that no honest archive has."""
METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz", 99: "AES"}
ENCRYPTED = 0x2041
"""Flags: encrypted, strongly encrypted, its header masked."""
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)
"""What zipfile raises of archives that are damaged."""


class PictureSource(Protocol):
    """Pictures by their names."""

    names: list[str]
    """In natural order."""

    def size(self, name: str) -> int:
        """Bytes, as it says itself."""
        ...

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Raises UndecodableMedia, of reading too."""
        ...


class Archive:
    """A zip archive.

    Raises:
        UndecodableMedia: it is broken, or has an entry that is more than a file; that is named.
        LimitExceeded: it has more than `most` files.
    """

    def __init__(self, path: str, most: int) -> None:
        try:
            self._zip = zipfile.ZipFile(BoundedFile(path))
        except ZIP_ERRORS as error:
            raise UndecodableMedia(
                "it is a zip archive that is cut short or broken: its directory, at its end, cannot be read"
            ) from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            with name_errors(info.orig_filename):
                name = _parse_path(info)
                if name is None:
                    continue
                if name in self._entries:
                    raise UndecodableMedia("there are two of this name")
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
            checksum = isinstance(error, zipfile.BadZipFile) and "CRC" in str(error)
            reason = "its checksum (CRC) is wrong" if checksum else "the archive is damaged here, or cut short"
            raise UndecodableMedia(f"it cannot be unpacked: {reason}") from error


class Folder:
    """A folder and the folders in it. For callers that are on this machine anyway: links to files are followed.

    Raises:
        UndecodableMedia: it cannot be read, or has a link to a folder, or a thing that is no file; that is named.
        LimitExceeded: it has more than `most` files.
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
                            "it is a link to a folder or to nothing, or another thing that is no file"
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
    """A file of which not much is read at once: zipfile reads as large a directory as the archive says there is."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises LimitExceeded."""
        if size is not None and size > INDEX_BYTES:
            raise LimitExceeded(f"its directory of files has {size} bytes; the limit is {INDEX_BYTES}")
        return super().read(-1 if size is None else size) or b""


@contextmanager
def name_errors(name: str) -> Generator[None]:
    """Name the picture in the errors that are raised of it."""
    try:
        yield
    except ReelError as error:
        shown = name if len(name) <= MAX_NAME else f"…{name[-MAX_NAME:]}"
        raise type(error)(f"{shown!r}: {error.message}") from error


def natural_key(path: str) -> list[list[str | tuple[int, str]]]:
    """What paths are ordered by: folder by folder, digits as numbers, capitals like small letters, endings last."""
    *parts, name = path.split("/")
    stem, dot, ending = name.rpartition(".")
    return [
        [_digits_key(piece) if i % 2 else piece.casefold() for i, piece in enumerate(re.split("([0-9]+)", part))]
        for part in (*parts, *((stem, ending) if dot else (name,)))
    ]


def _digits_key(digits: str) -> tuple[int, str]:
    """A key that orders digits as `int` does, however many they are."""
    digits = digits.lstrip("0")
    return len(digits), digits


def check_count(count: int, most: int) -> None:
    """Raises LimitExceeded."""
    if count > most:
        raise LimitExceeded(f"there are more pictures in it than the limit of {most} (max_frames)")


def is_ignored(path: str) -> bool:
    """Whether it is what systems leave in folders, and not meant for anybody."""
    parts = path.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() == "thumbs.db"


def _parse_path(info: zipfile.ZipInfo) -> str | None:
    """The path of a file; None of what is passed over. Raises UndecodableMedia."""
    name = info.orig_filename
    for trick, reason in UNSAFE_PATHS.items():
        if trick.search(name):
            raise UndecodableMedia(reason)
    if name.endswith("/") or stat.S_ISDIR(info.external_attr >> 16):
        return None
    path = "/".join(part for part in name.split("/") if part not in ("", "."))
    if not path:
        raise UndecodableMedia("it has no name")
    return None if is_ignored(path) else path


def _check_entry(info: zipfile.ZipInfo) -> None:
    """Raises UndecodableMedia for what is more than a file."""
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise UndecodableMedia("it is a link, or another thing that is no file")
    if info.flag_bits & ENCRYPTED:
        raise UndecodableMedia("it is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = METHODS.get(info.compress_type, f"number {info.compress_type}")
        raise UndecodableMedia(f"its compression is not supported ({method}); use deflate, or none")


def _raise_unreadable(error: OSError) -> Never:
    raise UndecodableMedia(f"it cannot be read: {error.strerror}") from error
