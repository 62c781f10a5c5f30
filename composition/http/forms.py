"""Forms: their texts within the memory that a request may take, and their files in one temporary file.

Ten thousand files in a form cost one open file, and no memory but for their names.
"""

import asyncio
import io
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import unquote_to_bytes

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from services.allowance import Allowance, text_cost
from services.errors import InvalidParameter, InvalidRequest, LimitExceeded, PayloadTooLarge
from services.json_text import MAX_FIELDS, unusable

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 10_100
"""Of a form: a list of 10,000 files, and the other fields."""
CHUNK = 1 << 17
"""Bytes that are parsed at a time."""
CHUNKS_HELD = 3
"""Copies of them in memory while a form is read."""
PIECE = 1 << 12
"""Bytes of an urlencoded value that are decoded at a time: each escape in them takes some 60 bytes meanwhile."""
NAME_LENGTH = 255
"""Characters of a file name that are kept."""
ITEM_COST = 96
"""Bytes of memory for each field of a form, beside its value."""
NAME_COST = 512
"""Bytes of memory for each name in a form: its places in the objects that the fields become."""


@dataclass(frozen=True, slots=True)
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


class Texts:
    """Makes strings of the names and values in a form, within the memory that its request may take."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._names: dict[str, str] = {}

    def name(self, data: bytes | bytearray) -> str:
        """Return a field's name, the same string whenever it comes again.

        Raises InvalidParameter, LimitExceeded, PayloadTooLarge.
        """
        with self._allowance.lent(len(data)):
            name = _text(data)
        known = self._names.get(name)
        if known is not None:
            return known
        if len(self._names) >= MAX_FIELDS:
            raise LimitExceeded(f"the form has more different fields than the limit of {MAX_FIELDS}")
        cost = text_cost(data)
        self._allowance.take(NAME_COST + max(cost.kept, len(data)), cost.passing)
        if reason := unusable(name):
            raise InvalidParameter(f"the name of a field {reason}", param="body")
        self._names[name] = name
        return name

    def value(self, name: str, data: bytes | bytearray) -> str:
        """Return the value of the field `name`. Raises InvalidParameter, PayloadTooLarge."""
        cost = text_cost(data)
        # What is not UTF-8 has a character for each byte.
        self._allowance.take(ITEM_COST + max(cost.kept, len(data)), cost.passing + sys.getsizeof(data))
        text = _text(data)
        if reason := unusable(text):
            raise InvalidParameter(f"{name[:60]}: {reason}", param=name[:60])
        return text


class Reader:
    """Takes a form's events one after another, as python-multipart tells them.

    Args:
        spool: where the bytes of all files go.
        allowance: the memory for what stays there: names, and text fields.
    """

    def __init__(self, spool: IO[bytes], allowance: Allowance) -> None:
        self.items: list[tuple[str, Part | str]] = []
        """The names and values in the order they came."""
        self.whole = False
        self._spool = spool
        self._texts = Texts(allowance)
        self._most_text = allowance.limit
        self._text_left = allowance.limit
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
        self._name = self._texts.name(options[b"name"])
        self._filename = None
        if b"filename" in options:
            self._filename = self._texts.value(self._name, options[b"filename"])[:NAME_LENGTH]
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
        if self._filename is not None:
            piece = Piece(self._spool, self._start, self._spool.tell() - self._start)
            self.items.append((self._name, Part(cast("IO[bytes]", piece), self._filename or self._name)))
            return
        text, self._text = self._text, bytearray()
        self.items.append((self._name, self._texts.value(self._name, text)))

    def _finish(self) -> None:
        self.whole = True


@asynccontextmanager
async def read_form(
    body: AsyncIterable[bytes], content_type: str, allowance: Allowance
) -> AsyncGenerator[list[tuple[str, Part | str]]]:
    """Read a multipart body: names and values in the order they came. Its files are gone when the block is left.

    Raises:
        InvalidRequest: it is no multipart form, or not a whole one.
        InvalidParameter: a text in it cannot be used.
        LimitExceeded: it has more than MAX_PARTS parts, or more than MAX_FIELDS different names.
        PayloadTooLarge: its text fields together have more bytes, or take more memory, than the allowance.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("Content-Type: multipart/form-data needs a boundary", param="Content-Type")
    with tempfile.TemporaryFile() as spool:
        reader = Reader(spool, allowance)
        try:
            parser = MultipartParser(boundary, reader.callbacks())
            with allowance.lent(CHUNKS_HELD * CHUNK):
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


def read_pairs(data: bytes, allowance: Allowance) -> list[tuple[str, str]]:
    """Read an urlencoded form: names and values in the order they came.

    Source: https://url.spec.whatwg.org/#concept-urlencoded-parser

    Raises:
        InvalidRequest: it has more than MAX_PARTS fields.
        InvalidParameter, LimitExceeded, PayloadTooLarge: as `read_form`.
    """
    if data.count(b"&") >= MAX_PARTS:
        raise InvalidRequest(f"the form has more fields than the limit of {MAX_PARTS}")
    texts = Texts(allowance)
    pairs: list[tuple[str, str]] = []
    start = 0
    while start < len(data):
        stop = data.find(b"&", start)
        stop = len(data) if stop < 0 else stop
        middle = data.find(b"=", start, stop)
        middle = stop if middle < 0 else middle
        if start < stop:
            name = texts.name(_unquoted(data, start, middle))
            pairs.append((name, texts.value(name, _unquoted(data, middle + 1, stop))))
        start = stop + 1
    return pairs


def _unquoted(data: bytes, start: int, stop: int) -> bytearray:
    """Decode a piece of an urlencoded form, little by little: the library takes 20 bytes for each byte of escapes."""
    text = bytearray()
    while start < stop:
        end = min(start + PIECE, stop)
        cut = data.rfind(b"%", max(start + 1, end - 2), end) if end < stop else -1  # an escape stays whole
        end = end if cut < 0 else cut
        text += unquote_to_bytes(data[start:end].replace(b"+", b" "))
        start = end
    return text


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
