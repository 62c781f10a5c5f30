"""Parsing of form bodies: text fields within the request's memory limit, files in one temporary file.

A form with ten thousand files needs one open file, and memory only for their names.
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
"""Maximum number of parts in a form: a list of 10,000 files, and the other fields."""
CHUNK = 1 << 17
"""Bytes parsed at a time."""
CHUNK_COPIES = 3
"""Copies of a chunk that are in memory during parsing."""
DECODED_CHUNK = 1 << 12
"""Bytes of an urlencoded value decoded at a time: decoding takes about 60 bytes of memory for each escape."""
NAME_LENGTH = 255
"""Maximum length of a stored file name, in characters; longer names are cut."""
ITEM_COST = 96
"""Bytes of memory for each field of a form, in addition to its value."""
NAME_COST = 512
"""Bytes of memory for each distinct field name: its slots in the dicts that the fields are parsed into."""


@dataclass(frozen=True, slots=True)
class Part:
    """An uploaded file: open at its start, with the file name that the client sent."""

    file: IO[bytes]
    name: str


class FileSlice(io.RawIOBase):
    """A read-only view of a byte range of an open file, with its own position. Usable until that file is closed."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: bytearray, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._file.fileno(), size, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class TextDecoder:
    """Decodes the names and values of a form, and counts their memory against the request's allowance."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._names: dict[str, str] = {}

    def decode_name(self, data: bytes | bytearray) -> str:
        """Return a field's name; equal names are the same string object.

        Raises InvalidParameter, LimitExceeded, PayloadTooLarge.
        """
        with self._allowance.lent(len(data)):
            name = _decode_text(data)
        known = self._names.get(name)
        if known is not None:
            return known
        if len(self._names) >= MAX_FIELDS:
            raise LimitExceeded(f"the form has more distinct field names than the limit of {MAX_FIELDS}")
        cost = text_cost(data)
        self._allowance.take(NAME_COST + max(cost.kept, len(data)), cost.passing)
        if reason := unusable(name):
            raise InvalidParameter(f"the name of a field {reason}", param="body")
        self._names[name] = name
        return name

    def decode_value(self, name: str, data: bytes | bytearray) -> str:
        """Return the value of the field `name`. Raises InvalidParameter, PayloadTooLarge."""
        cost = text_cost(data)
        # Text that is not UTF-8 has one character per byte.
        self._allowance.take(ITEM_COST + max(cost.kept, len(data)), cost.passing + sys.getsizeof(data))
        text = _decode_text(data)
        if reason := unusable(text):
            raise InvalidParameter(f"{name[:60]}: {reason}", param=name[:60])
        return text


class FormReader:
    """Collects the fields and files of a form from the callbacks of python-multipart.

    Args:
        spool: the file to which the contents of all uploaded files are appended.
        allowance: memory for names and text fields.
    """

    def __init__(self, spool: IO[bytes], allowance: Allowance) -> None:
        self.items: list[tuple[str, Part | str]] = []
        """(name, value) in the order of the form."""
        self.is_complete = False
        """Whether the closing boundary was read."""
        self._spool = spool
        self._decoder = TextDecoder(allowance)
        self._max_text_bytes = allowance.limit
        self._remaining_text_bytes = allowance.limit
        self._headers: dict[bytes, bytes] = {}
        self._header_name, self._header_value = b"", b""
        self._name = ""
        self._filename: str | None = None
        self._text = bytearray()
        self._start = 0

    @property
    def callbacks(self) -> "MultipartCallbacks":
        """The callbacks for MultipartParser."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._read_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end_form,
        }

    def _begin_part(self) -> None:
        if len(self.items) >= MAX_PARTS:
            raise LimitExceeded(f"the form has more fields and files than the limit of {MAX_PARTS}")
        self._headers, self._text = {}, bytearray()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def _read_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise InvalidRequest("a part of the form has no name in its Content-Disposition header")
        self._name = self._decoder.decode_name(options[b"name"])
        self._filename = None
        if b"filename" in options:
            self._filename = self._decoder.decode_value(self._name, options[b"filename"])[:NAME_LENGTH]
        self._start = self._spool.tell()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._filename is not None:
            self._spool.write(data[start:end])
            return
        self._remaining_text_bytes -= end - start
        if self._remaining_text_bytes < 0:
            raise PayloadTooLarge(
                f"the text fields of the form are larger than the limit of {self._max_text_bytes} bytes "
                "(max_json_bytes); send larger values as files"
            )
        self._text += data[start:end]

    def _end_part(self) -> None:
        if self._filename is not None:
            content = FileSlice(self._spool, self._start, self._spool.tell() - self._start)
            self.items.append((self._name, Part(cast("IO[bytes]", content), self._filename or self._name)))
            return
        text, self._text = self._text, bytearray()
        self.items.append((self._name, self._decoder.decode_value(self._name, text)))

    def _end_form(self) -> None:
        self.is_complete = True


@asynccontextmanager
async def read_multipart(
    body: AsyncIterable[bytes], content_type: str, allowance: Allowance
) -> AsyncGenerator[list[tuple[str, Part | str]]]:
    """Parse a multipart form into (name, value) pairs, in the order of the form.

    Its files are closed at the end of the `async with` block.

    Raises:
        InvalidRequest: the body is not a multipart form, or is incomplete.
        InvalidParameter: a text contains characters that cannot be stored.
        LimitExceeded: more than MAX_PARTS parts, or more than MAX_FIELDS distinct names.
        PayloadTooLarge: the text fields together exceed the allowance, in bytes or in memory.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("Content-Type: multipart/form-data needs a boundary", param="Content-Type")
    with tempfile.TemporaryFile() as spool:
        reader = FormReader(spool, allowance)
        try:
            parser = MultipartParser(boundary, reader.callbacks)
            with allowance.lent(CHUNK_COPIES * CHUNK):
                async for chunk in _merge_chunks(body):
                    await asyncio.to_thread(parser.write, chunk)
        except FormParserError as error:
            raise InvalidRequest("the body is not a multipart form") from error
        if not reader.is_complete:
            raise InvalidRequest("the form is incomplete: the body ends before the closing boundary")
        spool.flush()
        yield reader.items


async def _merge_chunks(body: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Yield the same bytes in chunks of at least CHUNK bytes, except for the last."""
    buffer = bytearray()
    async for chunk in body:
        buffer += chunk
        if len(buffer) >= CHUNK:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def read_urlencoded(data: bytes, allowance: Allowance) -> list[tuple[str, str]]:
    """Parse an urlencoded form into (name, value) pairs, in the order of the form.

    Source: https://url.spec.whatwg.org/#concept-urlencoded-parser

    Raises:
        InvalidRequest: more than MAX_PARTS fields.
        InvalidParameter, LimitExceeded, PayloadTooLarge: as `read_multipart`.
    """
    if data.count(b"&") >= MAX_PARTS:
        raise InvalidRequest(f"the form has more fields than the limit of {MAX_PARTS}")
    decoder = TextDecoder(allowance)
    pairs: list[tuple[str, str]] = []
    start = 0
    while start < len(data):
        stop = data.find(b"&", start)
        stop = len(data) if stop < 0 else stop
        middle = data.find(b"=", start, stop)
        middle = stop if middle < 0 else middle
        if start < stop:
            name = decoder.decode_name(_decode_escapes(data, start, middle))
            pairs.append((name, decoder.decode_value(name, _decode_escapes(data, middle + 1, stop))))
        start = stop + 1
    return pairs


def _decode_escapes(data: bytes, start: int, stop: int) -> bytearray:
    """Decode the `%` escapes in `data[start:stop]`, DECODED_CHUNK bytes at a time to limit the library's memory."""
    text = bytearray()
    while start < stop:
        end = min(start + DECODED_CHUNK, stop)
        cut = data.rfind(b"%", max(start + 1, end - 2), end) if end < stop else -1  # do not split an escape
        end = end if cut < 0 else cut
        text += unquote_to_bytes(data[start:end].replace(b"+", b" "))
        start = end
    return text


def _decode_text(data: bytes | bytearray) -> str:
    """Decode UTF-8, or Latin-1 if the bytes are not valid UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
