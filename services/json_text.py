"""Parsing of untrusted JSON with limits on memory, depth and the number of fields of an object.

A parser allocates 26 bytes for each byte of `[],[],…`, and 6 for each byte of a long string that ends with an emoji. So
a scan first adds up the memory of all values, before any is created, and stops when the sum exceeds the allowance. The
scan takes linear time. It also rejects NUL and lone surrogates, which databases and file names cannot store.

The sizes are those of 64-bit CPython 3.11 to 3.13, and include the temporary memory of pydantic's parser.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pydantic_core import from_json as parse_json

from services.allowance import MAX_JSON_BYTES, Allowance, allowing, current_allowance, text_cost
from services.errors import LimitExceeded

MAX_DEPTH = 64
"""Maximum nesting of objects and lists. Requests have at most 6 levels."""
MAX_FIELDS = 256
"""Maximum number of fields of one object. Requests have at most 40."""
SHOWN_PATH = 60
"""Characters of a field path that an error message quotes."""

SLOT = 24
"""Bytes per list item: one pointer in the list, and two in the parser's vector of items."""
LIST = 64
"""Bytes of an empty list."""
DICT = 192
"""Bytes of a dict with up to five fields."""
DICT_GROWTH = {6: 176, 11: 288, 22: 560, 43: 1200, 86: 2416, 171: 4624}
"""Number of fields at which a dict is resized → additional bytes."""
NUMBER = 32
"""Bytes of a number."""
TEXT = 64
"""Bytes of an ASCII string without its characters."""
CACHED_NAME = 64
"""Length in bytes up to which the parser caches a field name."""
KNOWN_NAMES = 512
"""Number of cached field names that the scan remembers."""

ESCAPE = (
    rb'\\(?:["\\/bfnrt]|u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4}'
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
OPEN_STRING = rb'"[^"\\\x00-\x1f]*+(?:' + ESCAPE + rb'[^"\\\x00-\x1f]*+)*+'
TOKEN = re.compile(
    rb"[ \t\n\r,]*+(?:(" + OPEN_STRING + rb'")([ \t\n\r]*+:)?+|([\[{])|([\]}])|([^ \t\n\r,:"\[\]{}]++)|(\Z)|([\s\S]))'
)
"""Groups: a string (1), and the colon after a field name (2); an opening (3) or closing (4) bracket; a number or a
literal (5); the end (6); anything else (7). It matches at every position without backtracking: the scan is linear."""
STRING, NAME, OPENS, CLOSES, WORD, END = range(1, 7)
CUT_STRING = re.compile(OPEN_STRING)
NO_CHARACTER = re.compile(rb"\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")
UNUSABLE = re.compile("[\0\ud800-\udfff]")


class UnusableText(ValueError):
    """A string contains NUL or a lone surrogate. `path` is the path of its field, empty at the root."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


def read_json(data: bytes) -> object:
    """Parse UTF-8 JSON within the allowance of the current request, or within a new allowance if there is no request.

    Raises:
        ValueError: the text is not valid JSON; UnusableText if a string contains NUL or a lone surrogate.
        LimitExceeded: the JSON is nested too deeply, or an object has too many fields.
        PayloadTooLarge: the values would take too much memory.
    """
    scan_json(data)
    return cast("object", parse_json(data, cache_strings="keys"))


def read_json_text(text: str) -> object:
    """Parse JSON in a string. Raises the errors of `read_json`."""
    data = text.encode()
    allowance = current_allowance() or Allowance(max(MAX_JSON_BYTES, len(data)))
    with allowing(allowance), allowance.lent(len(data)):
        return read_json(data)


def scan_json(data: bytes) -> None:
    """Add up the memory of the values of a JSON text, and check its strings. Raises the errors of `read_json`."""
    _Scan(data, current_allowance() or Allowance(max(MAX_JSON_BYTES, len(data)))).run()


def unusable(text: str) -> str | None:
    """Return why a string cannot be stored or sent, or None if it can."""
    found = UNUSABLE.search(text)
    return None if found is None else _reason(ord(found[0]))


def _reason(code: int) -> str:
    if code == 0:
        return "must not contain the character NUL"
    return f"must not contain the lone surrogate \\u{code:04x}"


@dataclass(slots=True)
class _Place:
    """Position of the scan in one list or object."""

    is_list: bool
    index: int = -1
    """Index of the current item of a list."""
    name: str | None = None
    """Name of the current field of an object."""
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
        """Start a value."""
        if self._places and self._places[-1].is_list:
            self._places[-1].index += 1
            self._take(SLOT)

    def _end(self) -> None:
        """End a value."""
        if self._places:
            self._places[-1].name = None

    def _refuse(self, at: int) -> None:
        """Raise ValueError or UnusableText for the invalid text at byte `at`."""
        cut = CUT_STRING.match(self._data, at)
        bad = None if cut is None else NO_CHARACTER.match(self._data, cut.end())
        if bad is None:
            raise ValueError(f"unexpected text at byte {at}")
        self._begin()
        raise UnusableText(_path(self._places), _reason(int(bad[0][2:], 16)))


def _path(places: Sequence[_Place]) -> str:
    """Return the path of the current field, e.g. `field.0.field`."""
    return ".".join(filter(None, map(str, places)))[:SHOWN_PATH]
