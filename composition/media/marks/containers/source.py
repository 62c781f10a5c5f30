"""Reading parts of a file, and writing a file that consists of parts of another one and of new bytes."""

import os
from collections.abc import Iterable
from typing import BinaryIO, TypeAlias

WINDOW_BYTES = 1 << 16
"""Size of one read from the disk."""
COPY_BYTES = 1 << 20
"""Size of one piece of a copy that the kernel cannot make."""
MAX_PACKET_BYTES = 1 << 20
"""Maximum size of an XMP packet that is read."""
MAX_BLOCKS = 1_000_000
"""Maximum number of chunks, segments, blocks or boxes of a file that are looked at."""

Piece: TypeAlias = "bytes | tuple[int, int]"
"""New bytes, or where a part of the source begins and ends."""


class Malformed(ValueError):
    """The file is not of the format, or is damaged."""


class Source:
    """A file that is read in parts, wherever they are. Memory holds one window of it.

    Args:
        file: the file; it may be unbuffered.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self._begin = 0
        self._window = b""

    def read(self, begin: int, count: int) -> bytes:
        """Return `count` bytes from `begin` on. Raises Malformed if the file ends before."""
        if begin < 0 or count < 0 or begin + count > self.size:
            raise Malformed("the file is truncated")
        offset = begin - self._begin
        if offset < 0 or offset + count > len(self._window):
            self._window = self._load(begin, max(count, WINDOW_BYTES))
            self._begin, offset = begin, 0
        data = self._window[offset : offset + count]
        if len(data) < count:
            raise Malformed("the file is truncated")
        return data

    def read_start(self, count: int) -> bytes:
        """Return the first `count` bytes, or fewer if the file is shorter."""
        return self.read(0, min(count, self.size))

    def write_pieces(self, pieces: Iterable[Piece], target: BinaryIO) -> None:
        """Write pieces of this file and new bytes to a file."""
        for piece in pieces:
            if isinstance(piece, bytes):
                target.write(piece)
            else:
                self._copy_part(*piece, target)

    def _load(self, begin: int, count: int) -> bytes:
        self._file.seek(begin)
        parts: list[bytes] = []
        while count > 0 and (part := self._file.read(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _copy_part(self, begin: int, end: int, target: BinaryIO) -> None:
        while begin < end:
            data = self._load(begin, min(end - begin, COPY_BYTES))
            if not data:
                raise Malformed("the file is truncated")
            target.write(data)
            begin += len(data)


def join_parts(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts with neighbours joined."""
    joined: list[tuple[int, int]] = []
    for begin, end in parts:
        if joined and joined[-1][1] == begin:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((begin, end))
    return joined
