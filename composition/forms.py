"""Multipart forms, read into one temporary file: ten thousand files in a form cost one open file and no memory."""

import asyncio
import io
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from services.errors import InvalidRequest, LimitExceeded, PayloadTooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 10_100
"""Of a form: a list of 10,000 files, and the other fields."""
CHUNK = 1 << 20
"""Bytes that are parsed at a time."""


@dataclass(frozen=True)
class Part:
    """A file as it came: open at its beginning, with the name that its user gave it."""

    file: IO[bytes]
    name: str


class Piece(io.RawIOBase):
    """A piece of an open file as a file of its own, with a position of its own; of use while that file is open."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: bytearray, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        most = max(0, min(len(buffer), self._size - self._at))
        data = os.pread(self._file.fileno(), most, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Reader:
    """Takes a form's events one after another, as python-multipart tells them.

    Args:
        spool: where the bytes of all files go.
        most_text: bytes that all text fields together may have, which stay in memory.
    """

    def __init__(self, spool: IO[bytes], most_text: int) -> None:
        self.items: list[tuple[str, Part | str]] = []
        """The names and values in the order they came."""
        self.whole = False
        self._spool = spool
        self._most_text = most_text
        self._text_left = most_text
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value = b"", b""
        self._name = ""
        self._filename: str | None = None
        self._text = bytearray()
        self._start = 0

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.items) >= MAX_PARTS:
            raise LimitExceeded(f"the form has more fields and files than the limit of {MAX_PARTS}")
        self._headers, self._text = {}, bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise InvalidRequest("the form has a part without a name in its Content-Disposition")
        self._name = _text(options[b"name"])
        self._filename = _text(options[b"filename"]) if b"filename" in options else None
        self._start = self._spool.tell()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._filename is not None:
            self._spool.write(data[start:end])
            return
        self._text_left -= end - start
        if self._text_left < 0:
            raise PayloadTooLarge(
                f"the text fields of the form have more bytes than the limit of {self._most_text} (max_json_bytes); "
                "what is longer goes into the form as a file"
            )
        self._text += data[start:end]

    def _end(self) -> None:
        value: Part | str = _text(bytes(self._text))
        if self._filename is not None:
            piece = Piece(self._spool, self._start, self._spool.tell() - self._start)
            value = Part(cast("IO[bytes]", piece), self._filename or self._name)
        self.items.append((self._name, value))

    def _finish(self) -> None:
        self.whole = True


@asynccontextmanager
async def read_form(
    body: AsyncIterable[bytes], content_type: str, most_text: int
) -> AsyncGenerator[list[tuple[str, Part | str]]]:
    """Read a multipart body: names and values in the order they came. Its files are gone when the block is left.

    Raises:
        InvalidRequest: it is no multipart form, or not a whole one.
        LimitExceeded: it has more than MAX_PARTS parts.
        PayloadTooLarge: its text fields together have more than `most_text` bytes.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("Content-Type: multipart/form-data needs a boundary", param="Content-Type")
    with tempfile.TemporaryFile() as spool:
        reader = Reader(spool, most_text)
        try:
            parser = MultipartParser(boundary, reader.callbacks())
            async for chunk in _gathered(body):
                await asyncio.to_thread(parser.write, chunk)
        except FormParserError as error:
            raise InvalidRequest("the body is not a multipart form") from error
        if not reader.whole:
            raise InvalidRequest("the body ends before the form does")
        spool.flush()
        yield reader.items


async def _gathered(body: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes in larger chunks."""
    held = bytearray()
    async for chunk in body:
        held += chunk
        if len(held) >= CHUNK:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
