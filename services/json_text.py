"""JSON that was sent, read within a bound on memory, on depth and on the fields of an object.

A parser makes 26 bytes of each byte of `[],[],…`, and six of each byte of a long text that ends with an emoji. So a
scan adds up what the values of a text will take before any of them is made, and ends where that is more than may be
taken. It is linear, and it refuses what no database and no file name can hold: NUL, and halves of surrogate pairs.

The sizes are those of CPython 3.11 to 3.13 on 64 bits, with what pydantic's parser needs for itself while it reads.
"""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import cast

from pydantic_core import from_json as parse_json

from services.errors import LimitExceeded, PayloadTooLarge

MAX_JSON_BYTES = 1 << 20
"""Bytes of JSON, or of the text in a form, that a request may have unless the configuration says otherwise."""
MEMORY_RATIO = 4
"""Reading a request takes at most so many times the bytes that its texts may have, they themselves included."""
LEAST_BYTES = 1 << 18
"""A lower limit does not make the memory smaller."""
MAX_DEPTH = 64
"""Objects and lists inside of each other. No request has more than 6."""
MAX_FIELDS = 256
"""Fields of one object. No request has more than 40."""
SHOWN_PATH = 60
"""Characters of a path that a message repeats."""

SLOT = 24
"""Bytes for one item of a list: its pointer in the list, and two in the vector that the parser collects them in."""
LIST = 64
DICT = 192
"""With up to five fields."""
DICT_GROWTH = {6: 176, 11: 288, 22: 560, 43: 1200, 86: 2416, 171: 4624}
"""At so many fields a dict is made anew, which takes so many bytes more."""
NUMBER = 32
TEXT = 64
"""A text of ASCII characters, without them."""
WIDE_TEXT = 96
"""Any other text, without its characters."""
PIECE = 1 << 16
"""Bytes whose characters are counted at a time."""
CACHED_NAME = 64
"""Bytes of a field's name up to which the parser makes it once for all objects."""
KNOWN_NAMES = 512
"""Different names that the scan remembers as made already."""

CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes of UTF-8 that begin no character."""
FOUR_BYTES = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
"""In a text with one of these each character takes 4 bytes."""
TWO_BYTES = re.compile(rb"[\xc4-\xff]|\\u(?!00)")
NOT_ASCII = re.compile(rb"[\x80-\xff]|\\u00[89a-fA-F]")

ESCAPE = (
    rb'\\(?:["\\/bfnrt]|u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4}'
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
OPEN_STRING = rb'"[^"\\\x00-\x1f]*+(?:' + ESCAPE + rb'[^"\\\x00-\x1f]*+)*+'
TOKEN = re.compile(
    rb"[ \t\n\r,]*+(?:(" + OPEN_STRING + rb'")([ \t\n\r]*+:)?+|([\[{])|([\]}])|([^ \t\n\r,:"\[\]{}]++)|(\Z)|([\s\S]))'
)
"""A string (1), and the colon that makes it a name (2); a bracket that opens (3) or closes (4); a number or word (5);
the end (6); anything else (7). It matches wherever it begins, and never goes back: it is linear."""
STRING, NAME, OPENS, CLOSES, WORD, END = range(1, 7)
CUT_STRING = re.compile(OPEN_STRING)
NO_CHARACTER = re.compile(rb"\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")
UNUSABLE = re.compile("[\0\ud800-\udfff]")


class UnusableText(ValueError):
    """A text holds what is no character, or NUL. `path` is that of its field, empty at the root."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class Allowance:
    """How much memory the texts of one request may take, read.

    Args:
        limit: bytes that the texts may have as they come. Read, and with what is needed for that, they may take
            MEMORY_RATIO times as many, or as LEAST_BYTES.
    """

    def __init__(self, limit: int = MAX_JSON_BYTES) -> None:
        self.limit = limit
        self._memory = MEMORY_RATIO * max(limit, LEAST_BYTES)
        self._left = self._memory

    def take(self, size: int, passing: int = 0) -> None:
        """Count so many bytes, beside which there must be room for `passing` ones. Raises PayloadTooLarge."""
        self._left -= size
        if self._left < passing:
            raise PayloadTooLarge(
                f"the body would take more than the limit of {self._memory} bytes of memory, {MEMORY_RATIO} times "
                f"max_json_bytes, once it is read: it has too many values, or too long texts of wide characters"
            )

    @contextmanager
    def lent(self, size: int) -> Generator[None]:
        """Count so many bytes until the block is left. Raises PayloadTooLarge."""
        self.take(size)
        try:
            yield
        finally:
            self._left += size


_current: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def allowing(allowance: Allowance) -> Generator[None]:
    """Let all JSON that is read in the block, also that in the texts of fields, share one allowance."""
    token = _current.set(allowance)
    try:
        yield
    finally:
        _current.reset(token)


def current_allowance() -> Allowance | None:
    """Return that of the request that is being read, if one is."""
    return _current.get()


def read_json(data: bytes) -> object:
    """Read JSON in UTF-8, within the allowance of the request that is being read, or one of its own.

    Raises:
        ValueError: it is not JSON; UnusableText where a text in it cannot be used.
        LimitExceeded: it is nested too deeply, or an object has too many fields.
        PayloadTooLarge: it would take too much memory.
    """
    scan_json(data)
    return cast("object", parse_json(data, cache_strings="keys"))


def read_json_text(text: str) -> object:
    """Read JSON that came as a text, as `read_json` does. Raises the same."""
    data = text.encode()
    allowance = current_allowance() or Allowance(max(MAX_JSON_BYTES, len(data)))
    with allowing(allowance), allowance.lent(len(data)):
        return read_json(data)


def scan_json(data: bytes) -> None:
    """Count what the values of a JSON text will take, and look at its texts. Raises what `read_json` raises."""
    _Scan(data, current_allowance() or Allowance(max(MAX_JSON_BYTES, len(data)))).run()


@dataclass(frozen=True, slots=True)
class TextCost:
    """Bytes that a string takes."""

    kept: int
    passing: int
    """More of them while it is made."""


def text_cost(data: bytes | bytearray, start: int = 0, stop: int | None = None, *, escapes: bool = False) -> TextCost:
    """Return what the text in `data[start:stop]`, which is UTF-8, takes as a string, at most.

    Python makes room for as many characters as there are bytes, and again when it meets a wider character.

    Args:
        data: the bytes.
        start, stop: the piece of them.
        escapes: whether a backslash in it begins an escape, as in JSON.
    """
    stop = len(data) if stop is None else stop
    size = stop - start
    characters = sum(
        len(data[at : min(at + PIECE, stop)].translate(None, CONTINUATION)) for at in range(start, stop, PIECE)
    )
    tape = 0
    if escapes and data.find(b"\\", start, stop) >= 0:
        # \\u and four digits are one character; those behind a backslash that is itself escaped are not meant.
        escaped = max(0, data.count(b"\\u", start, stop) - data.count(b"\\\\u", start, stop))
        size, characters = size - 3 * escaped, characters - 5 * escaped
        tape = size + size // 2
    width, before = _widths(data, start, stop)
    kept = WIDE_TEXT + width * characters
    return TextCost(kept, tape + (max(0, (width + before) * size - kept) if before else 0))


def _widths(data: bytes | bytearray, start: int, stop: int) -> tuple[int, int]:
    """Bytes for a character of a text, and of the narrower one that it may be made of, or 0."""
    if FOUR_BYTES.search(data, start, stop):
        return 4, 2
    if TWO_BYTES.search(data, start, stop):
        return 2, 1
    return (1, 1) if NOT_ASCII.search(data, start, stop) else (1, 0)


def unusable(text: str) -> str | None:
    """Return why a text can be neither stored nor sent, or None where it can."""
    found = UNUSABLE.search(text)
    return None if found is None else _reason(ord(found[0]))


def _reason(code: int) -> str:
    if code == 0:
        return "must not hold the character NUL"
    return f"must not hold half of a surrogate pair (\\u{code:04x}), which is no character"


@dataclass(slots=True)
class _Place:
    """Where the scan is inside of one list or object."""

    is_list: bool
    index: int = -1
    """Of the last item of a list."""
    name: str | None = None
    """Of the field of an object whose value comes next, or is being read."""
    fields: int = 0

    def __str__(self) -> str:
        return str(self.index) if self.is_list else self.name or ""


class _Scan:
    def __init__(self, data: bytes, allowance: Allowance) -> None:
        self._data = data
        self._take = allowance.take
        self._ascii = data.isascii() and b"\\" not in data
        self._places: list[_Place] = []
        self._names: set[bytes] = set()

    def run(self) -> None:
        steps = {STRING: self._text, NAME: self._field, OPENS: self._open, CLOSES: self._close, WORD: self._word}
        for match in TOKEN.finditer(self._data):
            step = steps.get(match.lastindex or 0)
            if step is not None:
                step(match)
            elif match.lastindex != END:
                self._refuse(match.end() - 1)

    def _text(self, match: re.Match[bytes]) -> None:
        self._begin()
        self._take_text(*match.span(STRING))
        self._end()

    def _word(self, match: re.Match[bytes]) -> None:
        self._begin()
        start, stop = match.span(WORD)
        self._take(NUMBER + (stop - start) // 2)
        self._end()

    def _open(self, match: re.Match[bytes]) -> None:
        self._begin()
        is_list = match[OPENS] == b"["
        self._take(LIST if is_list else DICT)
        self._places.append(_Place(is_list))
        if len(self._places) > MAX_DEPTH:
            raise LimitExceeded(f"the JSON is nested deeper than the limit of {MAX_DEPTH} levels")

    def _close(self, match: re.Match[bytes]) -> None:
        if self._places:
            self._places.pop()
        self._end()

    def _field(self, match: re.Match[bytes]) -> None:
        if not self._places:
            raise ValueError(f"unexpected text at byte {match.end() - 1}")
        place = self._places[-1]
        place.fields += 1
        if place.fields > MAX_FIELDS:
            raise LimitExceeded(
                f"{_path(self._places[:-1]) or 'the JSON'}: has more fields than the limit of {MAX_FIELDS}"
            )
        self._take(DICT_GROWTH.get(place.fields, 0))
        start, stop = match.span(STRING)
        if stop - start > CACHED_NAME:
            self._take_text(start, stop)
        elif (name := match[STRING]) not in self._names:
            self._take_text(start, stop)
            if len(self._names) < KNOWN_NAMES:
                self._names.add(name)
        place.name = self._data[start + 1 : min(stop - 1, start + SHOWN_PATH)].decode(errors="replace")

    def _take_text(self, start: int, stop: int) -> None:
        if self._ascii:
            self._take(TEXT + stop - start)
        else:
            cost = text_cost(self._data, start, stop, escapes=True)
            self._take(cost.kept, cost.passing)

    def _begin(self) -> None:
        """Note that a value begins."""
        if self._places and self._places[-1].is_list:
            self._places[-1].index += 1
            self._take(SLOT)

    def _end(self) -> None:
        """Note that a value has ended."""
        if self._places:
            self._places[-1].name = None

    def _refuse(self, at: int) -> None:
        """Say what is wrong with the text that begins at a byte. Raises ValueError."""
        cut = CUT_STRING.match(self._data, at)
        bad = None if cut is None else NO_CHARACTER.match(self._data, cut.end())
        if bad is None:
            raise ValueError(f"unexpected text at byte {at}")
        self._begin()
        raise UnusableText(_path(self._places), _reason(int(bad[0][2:], 16)))


def _path(places: Sequence[_Place]) -> str:
    """The field that a value is read for, as `field.0.field`."""
    return ".".join(filter(None, map(str, places)))[:SHOWN_PATH]
