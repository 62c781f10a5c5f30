"""JSON that was sent, read within a bound on memory, on depth and on the fields of an object.

A parser makes 26 bytes of each byte of `[],[],…`, and six of each byte of a long text that ends with an emoji. So a
scan adds up what the values of a text will take before any of them is made, and ends where that is more than may be
taken. It is linear, and it refuses what no database and no file name can hold: NUL, and halves of surrogate pairs.

The sizes are those of CPython 3.11 to 3.13 on 64 bits, with what pydantic's parser needs for itself while it reads.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pydantic_core import from_json as parse_json

from services.allowance import MAX_JSON_BYTES, Allowance, allowing, current_allowance, text_cost
from services.errors import LimitExceeded

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
CACHED_NAME = 64
"""Bytes of a field's name up to which the parser makes it once for all objects."""
KNOWN_NAMES = 512
"""Different names that the scan remembers as made already."""

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
